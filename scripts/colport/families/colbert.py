"""ColBERT: a text encoder with a projection (Khattab and Zaharia 2020, arXiv:2004.12832).

Every layout that sentence-transformers' ``MultiVectorEncoder`` reads: its own, PyLate's and
Stanford's. Its modules are traced as they stand, or the export refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.checkpoints import read_config
from colport.errors import CheckpointError, UnsupportedError
from colport.families import functional
from colport.families.base import (
    Batch,
    Document,
    Embedder,
    Family,
    GraphDefinition,
    GraphInput,
    Processing,
    Runtime,
    Skeleton,
)
from colport.families.tokens import TokenBatch, Tokens, save_backend

if TYPE_CHECKING:
    import torch

    from colport.weights import TensorEntry

_TOKENS = {0: "batch", 1: "tokens"}
_NO_LIMIT = 10**6  # transformers marks "no limit" with a huge model_max_length


class ColBERT(Family):
    """Text checkpoints that ``MultiVectorEncoder`` loads with a projection of their own."""

    name = "colbert"
    document_type = "passages"

    def accepts(self, folder: Path) -> bool:
        """Whether the folder has a projection layer, as each of the ColBERT layouts has."""
        config = read_config(folder)
        if config.get("model_type") in {"colpali", "colqwen2"} or "vlm_config" in config:
            return False
        return any((folder / name).exists() for name in ("modules.json", "artifact.metadata"))

    def skeleton(self, folder: Path, precision: str) -> Skeleton:
        """See :meth:`Family.skeleton`."""
        from colport.families.skeletons import build_on_meta, map_tensors
        from colport.weights import TensorIndex

        encoder = _load(folder, "meta")
        backbone = encoder[0].auto_model
        model, constants = build_on_meta(type(backbone), backbone.config, precision)
        sources = map_tensors(
            model,
            TensorIndex(folder),
            optional=(r"(^|\.)pooler\.",),
            ignored=(r"^linear\.weight$", r"^(cls|lm_head|decoder|head)\."),
            prefix="backbone.",
            source=str(folder),
        )
        chain, head_sources = _chain(model, encoder, folder, precision)
        sources |= head_sources
        constants = {f"backbone.{name}": value for name, value in constants.items()}
        takes_types = "token_type_ids" in encoder.tokenizer.model_input_names
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])]
        inputs = tuple(GraphInput(name, "int64", (2, 20), _TOKENS) for name in names)
        graphs = (GraphDefinition("text", inputs, _embed),)
        return Skeleton(chain, constants, sources, graphs, encoder.get_embedding_dimension())

    def processing(self, folder: Path) -> Processing:
        """See :meth:`Family.processing`."""
        encoder = _load(folder, "meta")
        transformer, tokenizer = encoder[0], encoder.tokenizer
        limit = transformer.max_seq_length
        limit = limit if limit and limit < _NO_LIMIT else None
        mask = _scoring_mask(encoder)
        skip = mask._skiplist_ids
        settings = {
            "prompts": {
                "query": encoder.prompts.get("query") or "",
                "document": encoder.prompts.get("document") or "",
            },
            "max_length": {
                "query": transformer.query_length or limit,
                "document": transformer.document_length or limit,
            },
            "expansion": _expansion(transformer, tokenizer),
            "skiplist": [] if skip is None else [int(token) for token in skip],
            "skiplist_kinds": list(mask.skiplist_tasks),
            "token_type_ids": "token_type_ids" in tokenizer.model_input_names,
            "pad_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.padding_side,
        }
        return Processing(settings, save_backend(tokenizer))

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> Runtime:
        """See :meth:`Family.runtime`."""
        return _Runtime(settings, folder)

    def reference(self, folder: Path, device: str) -> Embedder:
        """``MultiVectorEncoder`` with its own ``encode_query`` and ``encode_document``, in fp32."""
        return _Reference(_load(folder, device))


class _Reference:
    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``."""
        return self._encoder.encode_query(
            list(queries), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False
        )

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each passage, ``float32 [tokens, dim]``."""
        return self._encoder.encode_document(
            list(documents), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False
        )


class _Runtime(Runtime):
    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self._settings = settings
        self._tokens = Tokens(
            folder / "tokenizer.json", settings["pad_id"], settings["padding_side"]
        )

    def query_batch(self, queries: Sequence[str]) -> Batch:
        """See :meth:`Runtime.query_batch`."""
        expansion = self._settings["expansion"]
        if expansion is None:
            return self._text_batch(queries, "query", self._settings["max_length"]["query"])
        limit = self._settings["max_length"]["query"]
        if expansion["strategy"] == "fixed":
            limit = expansion["length"]
        elif limit is not None:
            limit = max(limit, expansion["length"])
        return self._text_batch(queries, "query", limit, expansion)

    def document_batch(self, documents: Sequence[Document]) -> Batch:
        """See :meth:`Runtime.document_batch`."""
        return self._text_batch(documents, "document", self._settings["max_length"]["document"])

    def _text_batch(
        self,
        texts: Sequence[Any],
        kind: str,
        limit: int | None,
        expansion: Mapping[str, Any] | None = None,
    ) -> Batch:
        prompt = self._settings["prompts"][kind]
        rows = self._tokens.encode([prompt + text for text in texts], limit)
        tokens = self._tokens.pad(rows, expansion["length"] if expansion else None)
        keep = tokens.mask.astype(bool)
        if expansion:
            tokens, keep = _expand(tokens, expansion)
        if kind in self._settings["skiplist_kinds"]:
            keep = keep & ~np.isin(tokens.ids, self._settings["skiplist"])
        feeds = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
        if self._settings["token_type_ids"]:
            feeds["token_type_ids"] = np.zeros_like(tokens.ids)
        return Batch("text", feeds, keep)


def _expand(tokens: TokenBatch, expansion: Mapping[str, Any]) -> tuple[TokenBatch, np.ndarray]:
    """Fill the padding up to the expansion length with the expansion token; it is scored."""
    width = np.arange(tokens.ids.shape[1]) < expansion["length"]
    added = (tokens.mask == 0) & width
    ids = np.where(added, expansion["token_id"], tokens.ids)
    mask = np.where(added, 1, tokens.mask) if expansion["attend"] else tokens.mask
    return TokenBatch(ids, mask), tokens.mask.astype(bool) | added


def _load(folder: Path, device: str) -> Any:
    """The checkpoint in sentence-transformers on a torch device; on ``meta`` without weights."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    on_meta = device == "meta"
    arguments = {"dtype": torch.float32, "use_safetensors": True}
    if on_meta:
        arguments["device_map"] = "meta"
    try:
        return MultiVectorEncoder(
            str(folder), device=None if on_meta else device, model_kwargs=arguments
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: sentence-transformers cannot read it ({str(error).splitlines()[0]})."
        ) from error


def _expansion(transformer: Any, tokenizer: Any) -> dict[str, Any] | None:
    """The query expansion with its token resolved: named, else the mask, else end of sequence."""
    expansion = transformer.query_expansion
    if expansion is None:
        return None
    token = expansion["token"] or tokenizer.mask_token or tokenizer.eos_token
    return {
        "strategy": expansion["strategy"],
        "length": expansion["length"],
        "attend": expansion["attend"],
        "token_id": tokenizer.convert_tokens_to_ids(token),
    }


def _scoring_mask(encoder: Any) -> Any:
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    masks = [module for module in encoder if isinstance(module, MultiVectorMask)]
    if len(masks) != 1:
        raise UnsupportedError(f"checkpoint has {len(masks)} MultiVectorMask modules, expected 1.")
    if masks[0].keep_only_token_ids:
        raise UnsupportedError("MultiVectorMask.keep_only_token_ids is not exported.")
    return masks[0]


def _chain(
    backbone: Any, encoder: Any, folder: Path, precision: str
) -> tuple[torch.nn.Module, dict[str, TensorEntry]]:
    """Backbone and projection layers as one module on meta, and where the layers' weights lie.

    Raises:
        UnsupportedError: A module that would not be in the graph.
        CheckpointError: A layer's weights are missing, unexpected or of another shape.
    """
    import torch
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    from colport.families.skeletons import torch_dtype

    layers, sources = [], {}
    for position, module in enumerate(list(encoder)[1:], start=1):
        if isinstance(module, MultiVectorMask | Normalize):
            continue  # the runtime masks, and every graph ends in a normalisation
        if not isinstance(module, Dense) or module.module_input_name != "token_embeddings":
            raise UnsupportedError(
                f"modules.json: module {position} is {type(module).__name__}; "
                "allowed are Dense on token embeddings, Normalize and MultiVectorMask."
            )
        sources |= _layer_sources(module, folder, position, f"head.{len(layers)}.")
        layers.append(module.to(device="meta", dtype=torch_dtype(precision)))
    if not any(isinstance(module, Normalize) for module in encoder):
        raise UnsupportedError("modules.json: has no Normalize; embeddings are not unit length.")
    chain = torch.nn.Module()
    chain.backbone = backbone
    chain.head = torch.nn.ModuleList(layers)
    return chain.eval(), sources


def _layer_sources(module: Any, folder: Path, position: int, prefix: str) -> dict[str, TensorEntry]:
    """A projection's tensors: in its own folder, or beside the backbone's (Stanford)."""
    from colport.families.skeletons import check_shape
    from colport.weights import TensorIndex

    if (folder / "modules.json").is_file():
        own = folder / read_modules(folder)[position]["path"]
        tensors = TensorIndex(own)
    else:
        tensors = {k: v for k, v in TensorIndex(folder).items() if k.startswith("linear.")}
    parameters = module.state_dict()
    if set(parameters) != set(tensors):
        raise CheckpointError(
            f"{folder}: projection {position} has weights {sorted(tensors)}, "
            f"needs {sorted(parameters)}."
        )
    for name, entry in tensors.items():
        check_shape(prefix + name, entry, tuple(parameters[name].shape))
    return {prefix + name: entry for name, entry in tensors.items()}


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers checkpoint, in order.

    Raises:
        CheckpointError: ``modules.json`` is not a list of modules.
    """
    import json

    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return sorted(modules, key=lambda module: module["idx"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'modules.json'}: cannot be read ({error}).") from error


def _embed(model: Any, *inputs: torch.Tensor) -> torch.Tensor:
    names = ("input_ids", "attention_mask", "token_type_ids")
    feeds = dict(zip(names, inputs, strict=False))
    features = {"token_embeddings": model.backbone(**feeds).last_hidden_state}
    for layer in model.head:
        features = layer(features)
    # Expansion tokens are scored although unattended: the runtime chooses, nothing is zeroed.
    every = feeds["input_ids"].new_ones(feeds["input_ids"].shape)
    return functional.normalised(features["token_embeddings"], every)


FAMILY = ColBERT()
