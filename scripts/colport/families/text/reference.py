"""ColBERT in PyTorch: the modules of ``MultiVectorEncoder`` behind each library's own tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import batch_to_device

from colport.families.base import Document, Room
from colport.families.reference.models import PyTorchReference

Prepared = tuple[str, Mapping[str, Any]]
"""The kind of a batch, and the features that its preprocessing gave."""


_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Kind of a text to the names that its prompt may have."""


class _Encoder(PyTorchReference):
    """What both have: how the model takes prepared inputs."""

    def prepare_queries(self, queries: Sequence[str]) -> Prepared:
        """The library's own preprocessing of one batch of queries."""
        return "query", self._features(list(queries), "query")

    def prepare_documents(self, documents: Sequence[Document]) -> Prepared:
        """The library's own preprocessing of one batch of passages."""
        return "document", self._features(list(documents), "document")

    @abstractmethod
    def _features(self, texts: list[Any], kind: str) -> Mapping[str, Any]: ...

    def run(self, prepared: Prepared) -> np.ndarray:
        """The model's output ``float32 [batch, tokens, dim]`` for prepared inputs."""
        kind, features = prepared
        moved = batch_to_device(dict(features), self.module.device)
        with torch.inference_mode():
            output = self.module(moved, task=kind)["token_embeddings"]
        return output.float().cpu().numpy()


class Reference(_Encoder):
    """``MultiVectorEncoder`` with its own ``encode_query`` and ``encode_document``.

    Args:
        encoder: A ``MultiVectorEncoder``.
        room: The memory that it was opened for.
    """

    def _encode(self, texts: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        known = {"query": self.module.encode_query, "document": self.module.encode_document}
        settings = {"convert_to_numpy": True, "show_progress_bar": False}
        return [
            embedding
            for batch in self._batches(texts, batch_size, partial(self._features, kind=kind))
            for embedding in known[kind](batch, batch_size=len(batch), **settings)
        ]

    def _features(self, texts: list[Any], kind: str) -> Mapping[str, Any]:
        # As `encode_query` and `encode_document` choose: the first that there is, else the default.
        names = [name for name in _PROMPTS[kind] if name in self.module.prompts]
        name = names[0] if names else self.module.default_prompt_name
        prompt = None if name is None else self.module.prompts[name]
        return self.module.preprocess(texts, prompt=prompt, task=kind)


class MarkedReference(_Encoder):
    """``MultiVectorEncoder`` behind the tokenization of PyLate and of Stanford's ColBERT.

    Args:
        encoder: A ``MultiVectorEncoder``.
        tokenizer: As :func:`~colport.families.text.tokenization.processing` gives it.
        settings: The ``processing`` section of ``colport.json``.
        room: The memory that it was opened for.
    """

    def __init__(
        self, encoder: Any, tokenizer: Any, settings: Mapping[str, Any], room: Room
    ) -> None:
        super().__init__(encoder, room)
        self._tokenizer = tokenizer
        self._settings = settings

    def _encode(self, texts: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        embeddings: list[np.ndarray] = []
        for batch in self._batches(texts, batch_size, partial(self._features, kind=kind)):
            features, keep = self._tokenize(batch, kind)
            output = self.run((kind, features))
            embeddings.extend(row[kept] for row, kept in zip(output, keep.numpy(), strict=True))
        return embeddings

    def _features(self, texts: list[Any], kind: str) -> Mapping[str, Any]:
        return self._tokenize(texts, kind)[0]

    def _tokenize(self, texts: list[str], kind: str) -> tuple[Any, torch.Tensor]:
        """Features, and which tokens are scored."""
        given, marker = self._settings, self._settings["markers"][kind]
        expansion = given["expansion"] if kind == "query" else None
        limit = expansion["length"] if expansion else given["max_length"][kind]
        texts = [given["prompts"][kind] + text for text in texts]
        if given["strip"]:
            texts = [text.strip() for text in texts]
        if given["lowercase"]:
            texts = [text.lower() for text in texts]
        features = self._tokenizer(
            texts,
            padding="max_length" if expansion else True,
            truncation=True,
            max_length=limit - (marker is not None),
            return_tensors="pt",
        )
        if marker is not None:
            behind_first = {"input_ids": marker, "attention_mask": 1, "token_type_ids": 0}
            for name in behind_first.keys() & features.keys():
                rows = features[name].long()
                column = torch.full((len(rows), 1), behind_first[name])
                features[name] = torch.cat([rows[:, :1], column, rows[:, 1:]], dim=1)
        keep = features["attention_mask"].bool()
        if expansion:
            features["input_ids"][~keep] = expansion["token_id"]
            keep = torch.ones_like(keep)
            if expansion["attend"]:
                features["attention_mask"].fill_(1)
        if kind in given["skiplist_kinds"]:
            keep &= ~torch.isin(features["input_ids"], torch.tensor(given["skiplist"]))
        return features, keep
