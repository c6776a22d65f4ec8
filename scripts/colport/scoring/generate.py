"""Write what a captioner says of a dataset's pictures, in shards: a folder each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.base.files import atomic_folder, check_supported, read_json, write_json
from colport.data.base import Lazy, RetrievalDataset
from colport.families.base import BATCH_SIZE
from colport.scoring.embed import encode_named, shard_count

FILE = "captions.json"

Generate = Callable[..., Sequence[str]]
"""Of pictures and a prompt or ``None`` for each; takes ``batch_size``."""


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
        generate: Of the PyTorch reference or an exported folder.
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
    pairs = Lazy(range(len(ids)), lambda place: (pictures[place], prompts[place]))

    def encode(batch: Sequence[tuple[Any, str | None]], batch_size: int | None) -> Sequence[str]:
        images, given = zip(*batch, strict=True)
        return generate(images, given, batch_size=batch_size or BATCH_SIZE)

    names = [f"{dataset.name}: {name}" for name in ids]
    texts = encode_named(pairs, names, encode, batch_size, "pictures", True, report)
    found = dict(zip(ids, texts, strict=True))
    shards = shard_count(len(dataset.query_ids), shard_documents)
    with atomic_folder(output) as folder:
        write_json(folder / FILE, {"captions": found, "labels": dict(labels), "shards": shards})


def read_generated(first: Path | str) -> tuple[dict[str, str], dict[str, str]]:
    """Captions of all shards by id, and the labels of the first one, by the first one's folder.

    Raises:
        UnsupportedError: The folder records a known limit instead.
        ArtifactError: A file is missing or damaged.
    """
    check_supported(first)
    begin = read_json(Path(first) / FILE)
    captions = dict(begin["captions"])
    for number in range(1, begin["shards"]):
        captions |= read_json(Path(first).parent / str(number) / FILE)["captions"]
    return captions, begin["labels"]
