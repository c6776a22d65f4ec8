"""``python -m benchmarks.corpus``: memory and time of scoring as the corpus grows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import processes
from benchmarks.command import SCRATCH, Output, publish, start, whole_numbers
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_on, with_memory
from colport.base import machine as environment
from colport.base.files import require_space, scratch_folder
from colport.scoring.embed import DOCUMENTS, QUERIES, read_documents, read_queries, shard_count
from colport.scoring.score import score_forms
from colport.scoring.store import write_embeddings

TABLE = Table(
    {
        "pages": ",",
        "disk_gb": ",.2f",
        "seconds": ",.1f",
        "ms_a_page": ",.3f",
        "cpu_ms_a_page": ",.3f",
        "peak_rss_mb": ",.0f",
        "peak_anonymous_mb": ",.0f",
    }
)
"""Time of all queries in the fastest of three passes, since whatever else runs only makes them
longer, and what it took of all cores. ``peak_rss_mb`` counts what is mapped of the files,
``peak_anonymous_mb`` what the process has of its own; MiB, both with Python and its libraries."""

COSTS = Table(
    {
        "pages": ",",
        **dict.fromkeys(("float16", "int8", "pooled-3-binary"), ",.3f"),
        "node-hours": ",.2f",
        **dict.fromkeys(("nodes for 1 h", "nodes for 1 min"), ","),
    }
)
"""Disk of the embeddings in three forms; then what one scoring of all queries takes."""

COSTED = (1_000_000, 100_000_000)
_PAGES = 512  # different ones of a corpus


@dataclass(frozen=True)
class Shape:
    """Sizes of the synthetic embeddings, by default those of ColPali."""

    queries: int = 50
    query_tokens: int = 20
    page_tokens: int = 1030
    dim: int = 128
    shard_documents: int = 1000

    def page_bytes(self) -> dict[str, int]:
        """Bytes of a page in the forms of :data:`COSTS`."""
        return {
            "float16": 2 * self.page_tokens * self.dim,
            "int8": self.page_tokens * (self.dim + 2),
            "pooled-3-binary": self.page_tokens // 3 * self.dim // 8,
        }


def run(
    pages: Sequence[int], scratch: Path, report: Callable[[str], None], shape: Shape | None = None
) -> dict[str, Any]:
    """Write, score and remove corpora of several sizes, each scored in a process of its own.

    Args:
        pages: Sizes.
        scratch: Folder for what is written; 264 MB a thousand pages by default.
        report: Called with each row as it is ready.
        shape: Sizes of the embeddings.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, the ``shape`` and the ``environment``.

    Raises:
        ArtifactError: The disk has no room for the largest corpus.
    """
    shape = shape or Shape()
    rows = []
    for count in pages:
        with scratch_folder(scratch / "corpus") as folder:
            require_space(folder, max(pages) * shape.page_bytes()["float16"])
            _write(folder, count, shape)
            size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
            row = run_alone("benchmarks.corpus:score", str(folder / "0"))
        row["disk_gb"] = size / 1e9
        row |= {f"{key}ms_a_page": 1e3 * row[f"{key}seconds"] / count for key in ("", "cpu_")}
        rows.append(row)
        report(TABLE.line(row))
    return {"rows": rows, "shape": shape, "environment": environment.describe()}


def score(first: str) -> dict[str, Any]:
    """Score all queries against all shards three times, in this process.

    Args:
        first: Folder of the first shard.
    """
    anonymous, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            anonymous.append(processes.anonymous_mb())

    queries, documents = read_queries(first), read_documents(first)
    score_forms(queries, documents[0], {}, [])  # loads libraries
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    passes = []
    for _ in range(3):
        begin = time.perf_counter(), time.process_time()
        found, _ = score_forms(queries, documents, {}, [])
        passes.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    done.set()
    watcher.join()
    return {
        "pages": found.documents,
        "seconds": min(passes)[0],
        "cpu_seconds": min(passes)[1],
        "peak_rss_mb": environment.peak_rss_mb(),
        "peak_anonymous_mb": max([*anonymous, processes.anonymous_mb()]),
    }


def cost(pages: int, seconds_a_page: float, shape: Shape) -> dict[str, Any]:
    """One row of :data:`COSTS`; time is linear, and nodes share no work."""
    hours = pages * seconds_a_page / 3600
    return {
        "pages": pages,
        **{form: pages * size / 1e12 for form, size in shape.page_bytes().items()},
        "node-hours": hours,
        "nodes for 1 h": math.ceil(hours),
        "nodes for 1 min": math.ceil(60 * hours),
    }


def markdown(record: Mapping[str, Any]) -> str:
    """Both tables, with the machine they were measured on."""
    machine, shape, rows = record["environment"], record["shape"], record["rows"]
    largest = max(rows, key=lambda row: row["pages"])
    costs = [cost(pages, largest["ms_a_page"] / 1e3, shape) for pages in COSTED]
    lines = [
        f"{measured_on(machine, 'onnxruntime', how=with_memory(machine))} "
        f"{shape.queries} queries of {shape.query_tokens}",
        f"tokens against pages of {shape.page_tokens} tokens, {shape.dim} dimensions, float16, in "
        f"shards of {shape.shard_documents}; each size in a process of its own,",
        "the fastest of three passes, on files just written, which the page cache holds as far as "
        "memory allows.",
        "",
        *TABLE.markdown(rows),
        "",
        "What larger corpora would cost, at the time a page of the largest one measured. A node is "
        "this machine with its",
        "share of the shards; disk in TB.",
        "",
        *COSTS.markdown(costs),
    ]
    return "\n".join(lines) + "\n"


def main(
    pages: Annotated[str, typer.Option(help="Comma-separated sizes.")] = "1000,10000,50000",
    scratch: Annotated[
        Path, typer.Option(help="Where embeddings are written, then removed: 264 kB a page.")
    ] = SCRATCH,
    output: Output = None,
) -> None:
    """Measure memory and time of scoring as the corpus grows, on synthetic embeddings.

    \b
    Example: python -m benchmarks.corpus --pages 1000,10000 --output corpus.md
    """
    publish(markdown(run(whole_numbers("pages", pages), scratch, typer.echo)), output)


def _write(folder: Path, pages: int, shape: Shape) -> None:
    """Shards as :func:`colport.scoring.embed.embed` writes them: a few random pages, rotated."""
    rng, size = np.random.default_rng(0), shape.shard_documents
    some = _normalised(rng, _PAGES, shape.page_tokens, shape.dim).astype(np.float16)
    shards = shard_count(pages, size)
    labels = {"shards": str(shards)}
    for shard in range(shards):
        chosen = range(pages)[shard * size : (shard + 1) * size]
        items = [np.roll(some[page % _PAGES], page // _PAGES, axis=1) for page in chosen]
        ids = [f"page-{page}" for page in chosen]
        write_embeddings(folder / str(shard) / DOCUMENTS, ids, items, labels)
    queries = list(_normalised(rng, shape.queries, shape.query_tokens, shape.dim))
    ids = [f"q{number}" for number in range(shape.queries)]
    write_embeddings(folder / "0" / QUERIES, ids, queries, labels)


def _normalised(rng: np.random.Generator, *sizes: int) -> np.ndarray:
    values = rng.standard_normal(sizes, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


if __name__ == "__main__":
    start(main)
