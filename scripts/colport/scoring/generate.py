"""Write what a captioner says of a dataset's pictures, in shards: a folder each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.base.errors import ArtifactError, DatasetError, InputError
from colport.base.files import atomic_folder, check_supported, read_json, write_json
from colport.data.base import RetrievalDataset, batches
from colport.families.base import BATCH_SIZE
from colport.scoring.embed import shard_count

FILE = "captions.json"

Generate = Callable[[Sequence[Any], Sequence[str | None]], Sequence[str]]
"""Texts about pictures, each with its prompt or ``None``."""


def asked(dataset: RetrievalDataset, chosen: slice) -> tuple[Sequence[Any], list[str | None]]:
    """Pictures, read one by one, and the prompt of each."""
    return dataset.pictures[chosen], [text or None for text in dataset.queries[chosen]]


def caption(
    generate: Generate,
    dataset: RetrievalDataset,
    output: Path,
    *,
    shard: int,
    shard_documents: int,
    batch_size: int | None = None,
    labels: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    """Write the texts of one shard of a dataset.

    Args:
        generate: Of the PyTorch reference or an exported folder; called with a batch.
        dataset: One of captions.
        output: Folder to write; it appears complete or not at all.
        shard: Number of the shard, from 0.
        shard_documents: Captions of a shard; the last one may have fewer.
        batch_size: Pictures of a batch.
        labels: Stored with the captions.
        report: Called with the progress every few seconds.

    Raises:
        DatasetError: The model does not take a picture or prompt; it is named.
    """
    chosen = slice(shard * shard_documents, (shard + 1) * shard_documents)
    ids, (pictures, prompts) = dataset.query_ids[chosen], asked(dataset, chosen)
    found: dict[str, str] = {}
    for places in batches(len(ids), batch_size or BATCH_SIZE, "described", "pictures", report):
        part = slice(places.start, places.stop)
        try:
            texts = generate([*pictures[part]], prompts[part])
        except InputError as error:
            name = ids[places[error.index or 0]]
            raise DatasetError(f"{dataset.name}: {name} {error.reason}.") from error
        found |= zip(ids[part], texts, strict=True)
    shards = shard_count(len(dataset.query_ids), shard_documents)
    with atomic_folder(output) as folder:
        write_json(folder / FILE, {"captions": found, "labels": dict(labels), "shards": shards})


def read_captions(first: Path | str) -> tuple[dict[str, str], dict[str, str]]:
    """Captions of all shards by id, and the labels of the first one, by the first one's folder.

    Raises:
        UnsupportedError: The folder records a known limit instead.
        ArtifactError: A file is missing, damaged or left from another cut into shards.
    """
    check_supported(first)
    begin = read_json(Path(first) / FILE)
    captions = dict(begin["captions"])
    for number in range(1, begin["shards"]):
        file = Path(first).parent / str(number) / FILE
        found = read_json(file)
        if found["shards"] != begin["shards"]:
            raise ArtifactError(
                f"{file}: is one of {found['shards']} shards, expected {begin['shards']}; "
                "generate the captions anew."
            )
        captions |= found["captions"]
    return captions, begin["labels"]
