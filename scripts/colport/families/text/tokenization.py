"""How each library turns queries and documents into tokens.

PyLate and Stanford's ColBERT put the id of a marker behind the first token of a padded batch;
sentence-transformers writes a prompt before the text. The two differ wherever a tokenizer starts
with no token of its own, does not know the marker, or treats what follows one in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

from colport.base.errors import CheckpointError, UnsupportedError
from colport.base.names import KINDS
from colport.families.text.layouts import Checkpoint
from colport.families.tokens import check_ids
from colport.hub.checkpoints import reading

_NO_LIMIT = 10**6  # transformers marks "no limit" with a huge model_max_length
_LENGTHS = {
    "stanford": {"query": "query_maxlen", "document": "doc_maxlen"},
    "pylate": {"query": "query_length", "document": "document_length"},
}
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
_OF_TOKENIZER = ("padding_side", "truncation_side", "split_special_tokens")
_MIXING = ("convbert", "fnet", "nystromformer", "yoso")  # padding and text, on either side
_BATCH = "so that the embedding of a text depends on the others of its batch"
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


def _tokenizer_of(checkpoint: Checkpoint, encoder: Any) -> Any:
    """The tokenizer as the checkpoint's own library has it.

    ``MultiVectorEncoder`` makes special tokens of PyLate's and Stanford's markers.
    """
    from transformers import AutoTokenizer

    if checkpoint.library == "sentence-transformers":
        return encoder.tokenizer
    with reading(checkpoint.backbone, "transformers"):
        return AutoTokenizer.from_pretrained(checkpoint.backbone, trust_remote_code=False)


def processing(checkpoint: Checkpoint, encoder: Any) -> tuple[dict[str, Any], Any]:
    """The ``processing`` section of ``colport.json``, and the tokenizer.

    Raises:
        UnsupportedError: A setting that the runtime would not follow.
        CheckpointError: A marker or the padding is not a token of the checkpoint, or a token has
            no word embedding.
    """
    transformer, tokenizer = encoder[0], _tokenizer_of(checkpoint, encoder)
    own = checkpoint.library == "sentence-transformers"
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{checkpoint.backbone}: the tokenizer has no padding token.")
    for fault in _unfollowed(checkpoint, transformer, tokenizer):
        raise UnsupportedError(f"{checkpoint.backbone}: {fault}.")
    rows = transformer.auto_model.get_input_embeddings().weight.shape[0]
    check_ids(checkpoint.backbone, tokenizer, rows)
    prompts = encoder.prompts if own else checkpoint.settings.get("prompts") or {}
    mask = _scoring_mask(checkpoint, encoder)
    settings = {
        "prompts": {kind: prompts.get(kind) or "" for kind in KINDS},
        "markers": {kind: _marker(checkpoint, tokenizer, kind) for kind in KINDS},
        "strip": checkpoint.library == "pylate",
        "lowercase": checkpoint.library == "pylate" and transformer.do_lower_case,
        "max_length": _lengths(checkpoint, transformer),
        "expansion": _expansion(transformer, tokenizer),
        "skiplist": _skiplist(checkpoint, mask.skiplist_words, tokenizer),
        "skiplist_kinds": list(mask.skiplist_tasks),
        "token_type_ids": _takes_token_types(encoder),
        "pad_id": tokenizer.pad_token_id,
        **{key: getattr(tokenizer, key) for key in _OF_TOKENIZER},
        "positions": _positions(transformer.auto_model),
    }
    return settings, tokenizer


def _positions(backbone: Any) -> int | None:
    """Tokens that a learned table of positions has rows for; ``None`` where they are computed."""
    if (table := _position_table(backbone)) is None:
        return None
    unused = 0 if table.padding_idx is None else table.padding_idx + 1  # as in RoBERTa
    return table.num_embeddings - getattr(table, "offset", unused)


def _position_table(backbone: Any) -> Any:
    from torch.nn import Embedding

    for name, table in backbone.named_modules():
        if isinstance(table, Embedding) and name.split(".")[-1] in _POSITION_TABLES:
            return table
    return None


def _takes_token_types(encoder: Any) -> bool:
    """Whether the tokenizer gives ``token_type_ids`` and the backbone has a use for them."""
    name = "token_type_ids"
    accepted = signature(encoder[0].auto_model.forward).parameters
    return name in encoder.tokenizer.model_input_names and name in accepted


def _unfollowed(checkpoint: Checkpoint, transformer: Any, tokenizer: Any) -> Iterator[str]:
    """What the runtime would not follow."""
    modalities, given = transformer.modality_config, transformer.processing_kwargs
    is_plain = transformer.transformer_task == "feature-extraction"
    if not is_plain or modalities.get("text") != _TEXT:
        yield f"the backbone's output is not its last hidden state ({modalities})"
    if checkpoint.library == "sentence-transformers" and "message" in modalities:
        yield (
            "sentence-transformers puts texts into the tokenizer's chat template, which is not "
            "exported; modality_config can name text alone"
        )
    config, table = transformer.auto_model.config, _position_table(transformer.auto_model)
    # RoBERTa counts tokens that are no padding, OPT those that the mask has.
    counts = table is not None and table.padding_idx != tokenizer.pad_token_id
    counts = counts and "attention_mask" not in signature(table.forward).parameters
    if tokenizer.padding_side == "left" and (counts or getattr(config, "conv_bias", False)):
        yield f"padding on the left shifts its learned positions or enters convolutions, {_BATCH}"
    if config.model_type in _MIXING:
        yield f"{config.model_type} mixes padding into a text, {_BATCH}"
    if "linear_attention" in (getattr(config, "layer_types", None) or ()):
        yield "its layers of linear attention, which carry a state along the text, are not exported"
    if any(given.values()):
        yield f"processing_kwargs {given} are not exported"
    if tokenizer.padding_side == "left" and (
        any(_marker(checkpoint, tokenizer, kind) is not None for kind in KINDS)
        or (transformer.query_expansion or {}).get("strategy") == "min"
    ):
        yield (
            "with padding on the left, markers and expansion of strategy 'min' fall where the "
            "longest text of a batch puts them"
        )


def _marker(checkpoint: Checkpoint, tokenizer: Any, kind: str) -> int | None:
    """Id that goes behind the first token."""
    if checkpoint.library == "sentence-transformers":
        return None
    if checkpoint.library == "stanford":
        name = {"query": "query_token_id", "document": "doc_token_id"}[kind]
        # An unknown marker is the unknown token, as in ColBERT itself.
        return tokenizer.convert_tokens_to_ids(checkpoint.settings[name])
    prefix = checkpoint.settings[f"{kind}_prefix"]
    if not prefix:
        return None
    if prefix not in tokenizer.get_vocab():
        raise CheckpointError(
            f"{checkpoint.folder}: {kind}_prefix {prefix!r} is not a token of the tokenizer; "
            "PyLate would add it with random weights."
        )
    return tokenizer.convert_tokens_to_ids(prefix)


def _lengths(checkpoint: Checkpoint, transformer: Any) -> dict[str, int | None]:
    """Tokens that a text may have, marker and special tokens included."""
    if names := _LENGTHS.get(checkpoint.library):
        return {kind: checkpoint.settings[names[kind]] for kind in KINDS}
    limit = transformer.max_seq_length
    limit = limit if limit and limit < _NO_LIMIT else None
    return {kind: getattr(transformer, f"{kind}_length") or limit for kind in KINDS}


def _expansion(transformer: Any, tokenizer: Any) -> dict[str, Any] | None:
    """The query expansion with its token resolved: named, else the mask, else end of sequence."""
    expansion = transformer.query_expansion
    if expansion is None:
        return None
    token = expansion["token"] or tokenizer.mask_token or tokenizer.eos_token
    kept = {key: expansion[key] for key in ("strategy", "length", "attend")}
    return {**kept, "token_id": tokenizer.convert_tokens_to_ids(token)}


def _skiplist(checkpoint: Checkpoint, words: Sequence[str], tokenizer: Any) -> list[int]:
    """Ids of the words that are not scored, by each library's own rule."""
    if checkpoint.library == "stanford":
        return [tokenizer.encode(word, add_special_tokens=False)[0] for word in words]
    ids = tokenizer.convert_tokens_to_ids(list(words))
    if checkpoint.library == "pylate":
        return ids  # with a word that is no token, the unknown token is not scored
    unknown = tokenizer.unk_token_id
    named = zip(words, ids, strict=True)
    return [index for word, index in named if index != unknown or word == tokenizer.unk_token]


def _scoring_mask(checkpoint: Checkpoint, encoder: Any) -> Any:
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    masks = [module for module in encoder if isinstance(module, MultiVectorMask)]
    if len(masks) != 1:
        raise UnsupportedError(
            f"{checkpoint.folder / 'modules.json'}: has {len(masks)} MultiVectorMask modules; "
            "exported is one."
        )
    if masks[0].keep_only_token_ids:
        raise UnsupportedError(
            f"{checkpoint.folder}: keep_only_token_ids of MultiVectorMask is not exported."
        )
    return masks[0]
