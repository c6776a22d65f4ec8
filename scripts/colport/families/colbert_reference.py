"""ColBERT in PyTorch: the modules of ``MultiVectorEncoder`` behind each library's own tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.families.base import Document

if TYPE_CHECKING:
    import torch


class Reference:
    """``MultiVectorEncoder`` with its own ``encode_query`` and ``encode_document``.

    Args:
        encoder: A ``MultiVectorEncoder``.
    """

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


class MarkedReference:
    """``MultiVectorEncoder`` behind the tokenization of PyLate and of Stanford's ColBERT.

    Args:
        encoder: A ``MultiVectorEncoder``.
        tokenizer: As :func:`~colport.families.colbert_tokens.tokenizer_of` gives it.
        settings: The ``processing`` section of ``colport.json``.
    """

    def __init__(self, encoder: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._settings = settings

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``."""
        return self._encode(queries, "query", batch_size)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each passage, ``float32 [tokens, dim]``."""
        return self._encode(documents, "document", batch_size)

    def _encode(self, texts: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        import torch

        embeddings: list[np.ndarray] = []
        for start in range(0, len(texts), batch_size):
            features, keep = self._tokenize(list(texts[start : start + batch_size]), kind)
            features = features.to(self._encoder.device)
            with torch.inference_mode():
                output = self._encoder(dict(features), task=kind)["token_embeddings"].cpu()
            embeddings.extend(row[kept].numpy() for row, kept in zip(output, keep, strict=True))
        return embeddings

    def _tokenize(self, texts: list[str], kind: str) -> tuple[Any, torch.Tensor]:
        """Features, and which tokens are scored."""
        import torch

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
            for name, value in (
                ("input_ids", marker),
                ("attention_mask", 1),
                ("token_type_ids", 0),
            ):
                if name in features:
                    features[name] = _behind_first(features[name], value)
        keep = features["attention_mask"].bool()
        if expansion:
            features["input_ids"][~keep] = expansion["token_id"]
            keep = torch.ones_like(keep)
            if expansion["attend"]:
                features["attention_mask"].fill_(1)
        if kind in given["skiplist_kinds"]:
            keep &= ~torch.isin(features["input_ids"], torch.tensor(given["skiplist"]))
        return features, keep


def _behind_first(rows: torch.Tensor, value: int) -> torch.Tensor:
    import torch

    column = torch.full((len(rows), 1), value)
    return torch.cat([rows[:, :1].long(), column, rows[:, 1:].long()], dim=1)
