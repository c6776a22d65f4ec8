"""Embed a dataset: one file for its queries, one for its documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.artifacts import atomic_folder, check_supported
from colport.families.base import Embedder
from colport.retrieval.store import EmbeddingSet, read_embeddings, write_embeddings

QUERIES = "queries.safetensors"
DOCUMENTS = "documents.safetensors"
_REPORT_SECONDS = 5.0

Report = Callable[[str], None]


def embed(
    encoder: Embedder,
    dataset: Any,
    output: Path,
    *,
    batch_size: int,
    labels: Mapping[str, str],
    report: Report,
) -> None:
    """Write the token embeddings of a dataset's queries and documents.

    Args:
        encoder: The PyTorch reference or an exported folder.
        dataset: A :class:`~colport.retrieval.datasets.RetrievalDataset`.
        output: Folder to write; it appears complete or not at all.
        batch_size: Inputs of one call.
        labels: Stored with the embeddings.
        report: Called with the progress every few seconds.
    """
    with atomic_folder(output) as folder:
        for file, kind, ids, inputs, encode in (
            (QUERIES, "queries", dataset.query_ids, dataset.queries, encoder.encode_queries),
            (
                DOCUMENTS,
                "documents",
                dataset.document_ids,
                dataset.documents,
                encoder.encode_documents,
            ),
        ):
            embeddings = _encode(inputs, encode, batch_size, kind, report)
            write_embeddings(folder / file, ids, embeddings, labels)


def read_queries(folder: Path | str) -> EmbeddingSet:
    """Query embeddings of :func:`embed`.

    Raises:
        UnsupportedError: The folder records a known limit instead.
        ArtifactError: The file is missing or damaged.
    """
    check_supported(folder)
    return read_embeddings(Path(folder) / QUERIES)


def read_documents(folder: Path | str) -> EmbeddingSet:
    """Document embeddings of :func:`embed`; see :func:`read_queries` for errors."""
    check_supported(folder)
    return read_embeddings(Path(folder) / DOCUMENTS)


def _encode(
    inputs: Sequence[Any],
    encode: Callable[..., list[np.ndarray]],
    batch_size: int,
    kind: str,
    report: Report,
) -> list[np.ndarray]:
    embeddings: list[np.ndarray] = []
    start = reported = time.monotonic()
    for first in range(0, len(inputs), batch_size):
        last = min(first + batch_size, len(inputs))
        batch = [inputs[index] for index in range(first, last)]
        embeddings.extend(encode(batch, batch_size=batch_size))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            rate = last / (reported - start)
            left = (len(inputs) - last) / rate
            report(f"{last}/{len(inputs)} {kind}, {rate:.1f} a second, {left:.0f} s left")
    report(f"embedded {len(inputs)} {kind} in {time.monotonic() - start:.1f} s")
    return embeddings
