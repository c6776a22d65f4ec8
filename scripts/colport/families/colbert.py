"""ColBERT: a text encoder with a projection (Khattab and Zaharia 2020, arXiv:2004.12832).

Checkpoints of PyLate, of Stanford's ColBERT and of sentence-transformers. Their modules are traced
as they stand, or the export refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import InputError
from colport.base.foreign import shape_beside
from colport.base.names import PLURALS
from colport.families import base, functional
from colport.families.text import layouts, tokenization
from colport.families.tokens import TokenBatch, Tokens, save_backend
from colport.hub.checkpoints import read_config
from colport.tensors.weights import TensorIndex

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_POOLER = {r"(^|\.)pooler\.": "makes one vector of a text"}
_HEADS = {
    rf"^{name}\.": "of the language model that the backbone was made from"
    for name in ("cls", "lm_head", "decoder", "head")
}
Expansion = Mapping[str, Any]

_SHAPES = shape_beside(__file__)


class ColBERT(base.Retriever):
    """Checkpoints of PyLate, Stanford's ColBERT and sentence-transformers."""

    name = "colbert"
    document_type = "passages"

    def accepts(self, folder: Path) -> bool:
        """Whether the folder has the files of a ColBERT layout, and a model that reads texts alone.

        A page model may have these files as well: sentence-transformers adds them.
        """
        if not layouts.is_checkpoint(folder):
            return False
        # A folder of sentence-transformers may keep its backbone, and so this file, further in.
        has_config = (folder / "config.json").is_file()
        return not (has_config and layouts.sees(read_config(folder)))

    def skeleton(self, folder: Path, precision: str) -> base.Skeleton:
        """See :meth:`Family.skeleton`."""
        import torch

        from colport.families.attention import give_zeros
        from colport.families.reference.skeletons import build_on_meta, map_tensors, reason
        from colport.families.stacks import named_by_library

        checkpoint = layouts.read(folder)
        layers, of_head = layouts.head(checkpoint, precision)
        encoder = layouts.load(checkpoint, "meta")
        settings, _ = tokenization.processing(checkpoint, encoder)
        loaded = encoder[0].auto_model
        loaded.config.use_cache = False
        backbone, constants = build_on_meta(type(loaded), loaded.config, precision)
        if settings["expansion"] and not settings["expansion"]["attend"]:
            give_zeros(backbone)
        projection = {r"^linear\.": "the head's"} if checkpoint.library == "stanford" else {}
        own = [*backbone.state_dict()]
        heads = {head: why for head, why in _HEADS.items() if not reason({head: why}, *own)}
        tensors = TensorIndex(checkpoint.backbone)
        names = {"optional": _POOLER, "ignored": heads | projection}
        stored = map_tensors(backbone, tensors, folder=folder, **names)
        model = torch.nn.ModuleDict({"backbone": backbone, "head": layers}).eval()
        inputs = base.token_inputs(20, *_INPUTS[2:] if settings["token_type_ids"] else ())
        return base.Skeleton(
            model,
            {f"backbone.{name}": value for name, value in constants.items()},
            {
                **{f"backbone.{name}": entry for name, entry in stored.items()},
                **{f"head.{name}": entry for name, entry in of_head.items()},
            },
            (base.GraphDefinition("text", inputs, _embed),),
            encoder.get_embedding_dimension(),
            backbone.config.model_type,
            named_by_library(model),
            _POOLER | heads,
            _longest(settings),
        )

    def processing(self, folder: Path) -> base.Processing:
        """See :meth:`Family.processing`."""
        checkpoint = layouts.read(folder)
        encoder = layouts.load(checkpoint, "meta")
        settings, tokenizer = tokenization.processing(checkpoint, encoder)
        return base.Processing(settings, save_backend(tokenizer, checkpoint.backbone))

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> base.Runtime:
        """See :meth:`Family.runtime`."""
        return _Runtime(settings, folder)

    def open_reference(self, folder: Path, device: str, room: base.Room) -> base.Embedder:
        """``MultiVectorEncoder`` in fp32, behind the tokenization of the checkpoint's library."""
        import torch

        from colport.families.text.reference import MarkedReference, Reference

        checkpoint = layouts.read(folder)
        skeleton = self.skeleton(folder, "fp32")  # refuses what transformers would make up
        encoder = layouts.load(checkpoint, "meta" if room.is_streamed else device)
        if room.is_streamed:
            from colport.families.reference.stored_parameters import fill

            found = (layer for layer in [*encoder][1:] if layer.state_dict())
            head = [next(found) if own.state_dict() else own for own in skeleton.model["head"]]
            parts = {"backbone": encoder[0].auto_model, "head": torch.nn.ModuleList(head)}
            fill(torch.nn.ModuleDict(parts), skeleton.tensors, skeleton.constants)
            encoder.to(device)
        if checkpoint.library == "sentence-transformers":
            return Reference(encoder, room)
        settings, tokenizer = tokenization.processing(checkpoint, encoder)
        return MarkedReference(encoder, tokenizer, settings, room)


class _Runtime(base.Runtime):
    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        base.check_settings(settings, _SHAPES["settings"], folder)
        if settings["expansion"] is not None:
            base.check_settings(settings["expansion"], _SHAPES["expansion"], folder)
        self._settings = settings
        self._tokens = Tokens(
            folder / "tokenizer.json",
            settings["pad_id"],
            settings["padding_side"],
            settings["truncation_side"],
            settings.get("split_special_tokens", False),
        )

    def query_batch(self, queries: Sequence[str]) -> base.Batch:
        """See :meth:`Runtime.query_batch`."""
        return self._batch(queries, "query")

    def document_batch(self, documents: Sequence[base.Document]) -> base.Batch:
        """See :meth:`Runtime.document_batch`."""
        return self._batch(documents, "document")

    def lengths(self, kind: str, chosen: Sequence[Any]) -> list[int]:
        """See :meth:`Runtime.lengths`."""
        expansion = self._expansion(kind)
        rows, room = self._rows(chosen, kind)
        return [max(len(row) + room, expansion["length"] if expansion else 1) for row in rows]

    def _expansion(self, kind: str) -> Expansion | None:
        return self._settings["expansion"] if kind == "query" else None

    def _rows(self, texts: Sequence[Any], kind: str) -> tuple[list[list[int]], int]:
        """Tokens of each text without the marker, and how many that has."""
        room = 0 if self._settings["markers"][kind] is None else 1
        limit = _limit(self._settings["max_length"][kind], self._expansion(kind))
        cleaned = [self._clean(text, kind) for text in texts]
        return self._tokens.encode(cleaned, None if limit is None else limit - room), room

    def _batch(self, texts: Sequence[Any], kind: str) -> base.Batch:
        expansion, marker = self._expansion(kind), self._settings["markers"][kind]
        rows, room = self._rows(texts, kind)
        batch = self._tokens.pad(rows, expansion["length"] - room if expansion else None)
        if marker is not None:
            # Behind the first token: where PyLate and Stanford put their markers.
            ids, mask = np.insert(batch.ids, 1, marker, axis=1), np.insert(batch.mask, 1, 1, axis=1)
            batch = TokenBatch(ids, mask)
        positions, width = self._settings.get("positions"), batch.ids.shape[1]
        if positions is not None and width > positions:
            longest = int(np.argmax([len(row) for row in rows]))
            fault = f"takes {width} tokens, the model has positions for {positions}"
            raise InputError(PLURALS[kind], longest, fault)
        keep = batch.mask.astype(bool)
        if expansion:
            batch, keep = _expand(batch, expansion)
        if kind in self._settings["skiplist_kinds"]:
            keep = keep & ~np.isin(batch.ids, self._settings["skiplist"])
        feeds = batch.feeds
        if self._settings["token_type_ids"]:
            feeds["token_type_ids"] = np.zeros_like(batch.ids)
        return base.Batch("text", feeds, keep)

    def _clean(self, text: str, kind: str) -> str:
        text = self._settings["prompts"][kind] + text
        if self._settings["strip"]:
            text = text.strip()
        return text.lower() if self._settings["lowercase"] else text


def _longest(settings: Mapping[str, Any]) -> float:
    """Tokens that a graph is given at most."""
    expansions = {"query": settings["expansion"]}
    limits = [_limit(limit, expansions.get(k)) for k, limit in settings["max_length"].items()]
    tokens = math.inf if None in limits else max(limits)
    return min(tokens, settings["positions"] or math.inf)


def _limit(limit: int | None, expansion: Expansion | None) -> int | None:
    """Tokens that a text may have: an expansion of fixed length is that, any other a minimum."""
    if expansion is None:
        return limit
    if expansion["strategy"] == "fixed":
        return expansion["length"]
    return None if limit is None else max(limit, expansion["length"])


def _expand(tokens: TokenBatch, expansion: Expansion) -> tuple[TokenBatch, np.ndarray]:
    """Fill the padding up to the expansion length with the expansion token; it is scored."""
    width = np.arange(tokens.ids.shape[1]) < expansion["length"]
    added = (tokens.mask == 0) & width
    ids = np.where(added, expansion["token_id"], tokens.ids)
    mask = np.where(added, 1, tokens.mask) if expansion["attend"] else tokens.mask
    return TokenBatch(ids, mask), tokens.mask.astype(bool) | added


def _embed(model: Any, *inputs: base.Tensor) -> base.Tensor:
    feeds = dict(zip(_INPUTS, inputs, strict=False))
    features = {"token_embeddings": model["backbone"](**feeds).last_hidden_state}
    for layer in model["head"]:
        features = layer(features)
    # Expansion tokens are scored although unattended: the runtime chooses, nothing is zeroed.
    every = feeds["input_ids"].new_ones(feeds["input_ids"].shape)
    return functional.normalised(features["token_embeddings"], every)


FAMILIES = (ColBERT(),)
