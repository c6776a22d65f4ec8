"""What ``python -m benchmarks.providers`` compares: a checkpoint, its exports and inputs.

It is made in a process of its own, so that PyTorch's memory, on a GPU too, is free again when the
contenders start.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import random_checkpoints
from colport.base.errors import ColPortError
from colport.families import registry
from colport.measure import entrants
from colport.pipeline import variants

if TYPE_CHECKING:
    from PIL import Image

_PAGES, _TEXTS = 4, 32
_QUERY_WORDS, _PASSAGE_WORDS = 9, 120
_WORDS = [
    "annual",
    "report",
    "energy",
    "patient",
    "contract",
    "network",
    "river",
    "carbon",
    "method",
]


def prepare(
    name: str,
    checkpoint: str | None,
    files_from: str,
    folder: str,
    precisions: Sequence[str],
    devices: Sequence[str],
    threads: int,
) -> dict[str, Any]:
    """Write or take a checkpoint, export it, write inputs, and time PyTorch once.

    Args:
        name: A size of :func:`benchmarks.random_checkpoints.sizes`, unless ``checkpoint``
            is given.
        checkpoint: Folder of a text model, or ``None``.
        files_from: Folder with the demo checkpoints.
        folder: Where everything is written.
        precisions: Ready-made variants to export.
        devices: Torch devices to time.
        threads: PyTorch's threads.

    Returns:
        JSON-ready: ``family``, ``checkpoint``, ``folders`` (variant to folder), ``failed``
        (variant to reason), ``queries``, ``documents``, ``pages``, and for each device in
        ``seconds`` either ``load``, ``query`` and ``document`` (seconds of a second call with one
        input) or ``reason``.
    """
    root = Path(folder)
    if checkpoint is None:
        source = root / "checkpoint"
        random_checkpoints.write(name, Path(files_from), source)
    else:
        source = Path(checkpoint)
    family = registry.detect(source).name
    folders, failed = {}, {}
    for variant in precisions:
        try:
            variants.export(source, root / variant, variant, family=family)
            folders[variant] = str(root / variant)
        except ColPortError as error:
            failed[variant] = str(error)
    queries = _texts(_QUERY_WORDS)
    pages = checkpoint is None
    documents = _write_pages(root) if pages else _texts(_PASSAGE_WORDS)
    first = random_checkpoints.random_page() if pages else documents[0]
    return {
        "family": family,
        "checkpoint": str(source),
        "folders": folders,
        "failed": failed,
        "queries": queries,
        "documents": documents,
        "pages": pages,
        "seconds": {
            device: _seconds(source, family, device, threads, queries[0], first)
            for device in devices
        },
    }


def _texts(words: int) -> list[str]:
    rng = random.Random(words)
    return [" ".join(rng.choices(_WORDS, k=words)) for _ in range(_TEXTS)]


def _write_pages(root: Path) -> list[str]:
    files = [root / f"page-{number}.png" for number in range(_PAGES)]
    for number, file in enumerate(files):
        random_checkpoints.random_page(number).save(file, compress_level=1)
    return [str(file) for file in files]


def _seconds(
    checkpoint: Path,
    family: str,
    device: str,
    threads: int,
    query: str,
    document: str | Image.Image,
) -> dict[str, Any]:
    """How slow PyTorch is in fp32, as the upper bound of what a contender's call takes."""
    try:
        start = time.perf_counter()
        embedder = entrants.reference(str(checkpoint), family, device, threads)
        load = time.perf_counter() - start
        found = {"load": load}
        for kind, call, given in (
            ("query", embedder.encode_queries, query),
            ("document", embedder.encode_documents, document),
        ):
            call([given], batch_size=1)
            start = time.perf_counter()
            call([given], batch_size=1)
            found[kind] = time.perf_counter() - start
    except Exception as error:  # noqa: BLE001 - its rows will say so; others may still run
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return found
