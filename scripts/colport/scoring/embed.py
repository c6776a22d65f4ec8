"""Embed a dataset in shards: a folder each, with some of its documents; queries in the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import ArtifactError, DatasetError, InputError
from colport.base.files import atomic_folder, check_supported
from colport.data.base import Lazy, batches
from colport.families.base import Embedder
from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings

QUERIES = "queries.safetensors"
DOCUMENTS = "documents.safetensors"

_TEXTS_AT_ONCE, _PAGES_AT_ONCE = 256, 16
"""Inputs in memory, of which an encoder forms batches."""

Report = Callable[[str], None]


def shard_count(documents: int, shard_documents: int) -> int:
    """Shards of a dataset with so many documents."""
    return math.ceil(documents / shard_documents)


def embed(
    encoder: Embedder,
    dataset: Any,
    output: Path,
    *,
    shard: int,
    shard_documents: int,
    batch_size: int | None = None,
    labels: Mapping[str, str],
    report: Report,
    query_batch_size: int | None = None,
) -> None:
    """Write the token embeddings of one shard of a dataset.

    Args:
        encoder: The PyTorch reference or an exported folder.
        dataset: A :class:`~colport.data.datasets.RetrievalDataset`; of its documents only
            those of the shard are read.
        output: Folder to write; it appears complete or not at all. Shards of a dataset lie side by
            side, each in a folder that is called by its number.
        shard: Number of the shard, from 0; the first one holds the queries too.
        shard_documents: Documents of a shard; the last one may have fewer.
        batch_size: Inputs of a batch; by default as the encoder forms them.
        labels: Stored with the embeddings.
        report: Called with the progress every few seconds.
        query_batch_size: Queries of a batch, if they are to be more or fewer.
    """
    shards = shard_count(len(dataset.document_ids), shard_documents)
    chosen = slice(shard * shard_documents, (shard + 1) * shard_documents)
    ids, documents = dataset.document_ids[chosen], dataset.documents[chosen]
    labels = {**labels, "shard": str(shard), "shards": str(shards)}
    with atomic_folder(output) as folder:
        if shard == 0:
            names = [f"{dataset.name}: query {name}" for name in dataset.query_ids]
            size, encode = query_batch_size or batch_size, encoder.encode_queries
            found = encode_named(dataset.queries, names, encode, size, "queries", False, report)
            write_embeddings(folder / QUERIES, dataset.query_ids, found, labels)
        kind = f"documents of shard {shard + 1}/{shards}" if shards > 1 else "documents"
        pages = getattr(encoder, "document_type", "pages") == "pages"  # to be careful with memory
        names, encode = [f"{dataset.name}: {name}" for name in ids], encoder.encode_documents
        found = encode_named(documents, names, encode, batch_size, kind, pages, report)
        write_embeddings(folder / DOCUMENTS, ids, found, labels)


def read_queries(folder: Path | str) -> EmbeddingSet:
    """Query embeddings of :func:`embed`, from the folder of the first shard.

    Raises:
        UnsupportedError: The folder records a known limit instead.
        ArtifactError: The file is missing or damaged.
    """
    check_supported(folder)
    return read_embeddings(Path(folder) / QUERIES)


def read_documents(first: Path | str) -> Sequence[EmbeddingSet]:
    """Document embeddings of :func:`embed`, by the folder of the first shard; each shard is opened
    when it is indexed.

    A shard is memory-mapped: what was read of it counts as memory until it is let go.

    Raises:
        UnsupportedError: The folder records a known limit instead.
        ArtifactError: A file is missing, damaged or left from another cut into shards; those after
            the first one when they are indexed.
    """
    check_supported(first)
    count = read_embeddings(Path(first) / DOCUMENTS).metadata["shards"]

    def shard(number: int) -> EmbeddingSet:
        file = Path(first).parent / str(number) / DOCUMENTS
        found = read_embeddings(file)
        if found.metadata["shards"] != count:
            raise ArtifactError(
                f"{file}: is one of {found.metadata['shards']} shards, expected {count}; "
                "embed the dataset anew."
            )
        return found

    return Lazy(range(int(count)), shard)


def encode_named(
    inputs: Sequence[Any],
    names: Sequence[str],
    encode: Callable[..., list[np.ndarray]],
    batch_size: int | None,
    kind: str,
    holds_pages: bool,
    report: Report,
) -> list[np.ndarray]:
    """Token embeddings of each input.

    Args:
        inputs: Texts or pages.
        names: What messages call each of them.
        encode: Encodes a list of them; takes ``batch_size``.
        batch_size: Inputs of a batch; by default as the encoder forms them.
        kind: What they are, for messages.
        holds_pages: Whether few of them are held in memory at a time.
        report: Called with the progress every few seconds.

    Raises:
        DatasetError: The model does not take one; it is named.
    """
    embeddings: list[np.ndarray] = []
    at_once = max(batch_size or 0, _PAGES_AT_ONCE if holds_pages else _TEXTS_AT_ONCE)
    for places in batches(len(inputs), at_once, "embedded", kind, report):
        batch = [inputs[index] for index in places]
        try:
            embeddings.extend(encode(batch, batch_size=batch_size))
        except InputError as error:
            name = names[places[error.index or 0]]
            raise DatasetError(f"{name} {error.reason}.") from error
    return embeddings
