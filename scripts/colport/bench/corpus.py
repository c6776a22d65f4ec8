"""``colport bench corpus``: memory and time of scoring as the corpus grows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colport import environment
from colport.artifacts import require_space
from colport.bench.processes import run_alone
from colport.bench.tables import markdown_table
from colport.embed import embed, shard_count
from colport.retrieval.base import RetrievalDataset

COLUMNS = (
    *("pages", "disk_gb", "seconds", "ms_a_page", "cpu_ms_a_page"),
    *("peak_rss_mb", "peak_anonymous_mb"),
)
"""Time of all queries in the fastest of three passes, since whatever else runs only makes them
longer, and what it took of all cores. ``peak_rss_mb`` counts what is mapped of the files,
``peak_anonymous_mb`` what the process has of its own; MiB, both with Python and its libraries."""

COST_COLUMNS = (
    *("pages", "float16", "int8", "pooled-3-binary"),
    *("node-hours", "nodes for 1 h", "nodes for 1 min"),
)
"""Disk of the embeddings in three forms; then what one scoring of all queries takes."""

COSTED = (1_000_000, 100_000_000)

_SCORE = """
import json, sys, threading, time
from colport import environment
from colport.embed import read_documents, read_queries
from colport.retrieval.score import score_run

anonymous, done = [], threading.Event()
def watch():
    while not done.wait(0.02):
        sample()
def sample():
    anonymous.append(environment.anonymous_mb())
threading.Thread(target=watch, daemon=True).start()
queries, documents = read_queries(sys.argv[1]), read_documents(sys.argv[1])
score_run(queries, documents[0], {})  # loads libraries
passes = []
for _ in range(3):
    start = time.perf_counter(), time.process_time()
    run = score_run(queries, documents, {})
    passes.append((time.perf_counter() - start[0], time.process_time() - start[1]))
done.set()
sample()
print(json.dumps({
    "documents": run.documents,
    "seconds": min(passes)[0],
    "cpu_seconds": min(passes)[1],
    "peak_rss_mb": environment.peak_rss_mb(),
    "peak_anonymous_mb": max(anonymous),
}))
"""


@dataclass(frozen=True)
class Shape:
    """Sizes of the synthetic embeddings, by default those of ColPali."""

    queries: int = 50
    query_tokens: int = 20
    page_tokens: int = 1030
    dim: int = 128
    shard_documents: int = 1000

    def page_bytes(self) -> dict[str, int]:
        """Bytes of a page in the forms of :data:`COST_COLUMNS`."""
        return {
            "float16": 2 * self.page_tokens * self.dim,
            "int8": self.page_tokens * (self.dim + 2),
            "pooled-3-binary": self.page_tokens // 3 * self.dim // 8,
        }


class _Synthetic:
    """Embeds page numbers: a few random pages, each again and again with its dimensions rotated."""

    _PAGES = 512

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._rng = np.random.default_rng(0)
        sizes = (self._PAGES, shape.page_tokens, shape.dim)
        self._pages = self._normalised(sizes).astype(np.float16)

    def encode_queries(self, queries: Sequence[str], batch_size: int) -> list[np.ndarray]:
        sizes = (len(queries), self._shape.query_tokens, self._shape.dim)
        return list(self._normalised(sizes))

    def encode_documents(self, pages: Sequence[int], batch_size: int) -> list[np.ndarray]:
        return [
            np.roll(self._pages[page % self._PAGES], page // self._PAGES, axis=1) for page in pages
        ]

    def _normalised(self, sizes: tuple[int, ...]) -> np.ndarray:
        values = self._rng.standard_normal(sizes, np.float32)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)


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
        ``rows`` with :data:`COLUMNS`, the ``shape`` and the ``environment``.

    Raises:
        ArtifactError: The disk has no room for the largest corpus.
    """
    shape = shape or Shape()
    folder = scratch / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    require_space(folder, max(pages) * shape.page_bytes()["float16"])
    rows = []
    for count in pages:
        _write(folder, count, shape)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        found = _score(folder / "0")
        row = {**found, "pages": found["documents"], "disk_gb": size / 1e9}
        row |= {f"{key}ms_a_page": 1e3 * found[f"{key}seconds"] / count for key in ("", "cpu_")}
        rows.append({key: row[key] for key in COLUMNS})
        report("  ".join(_cell(key, row) for key in COLUMNS))
        shutil.rmtree(folder)
    return {"rows": rows, "shape": shape, "environment": environment.describe()}


def cost(pages: int, seconds_a_page: float, shape: Shape) -> dict[str, Any]:
    """One row of :data:`COST_COLUMNS`; time is linear, and nodes share no work."""
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
        f"Measured on {environment.in_words(machine)}, "
        f"{machine['memory_mb'] / 1024:.0f} GiB; onnxruntime {machine['packages']['onnxruntime']}. "
        f"{shape.queries} queries of {shape.query_tokens}",
        f"tokens against pages of {shape.page_tokens} tokens, {shape.dim} dimensions, float16, in "
        f"shards of {shape.shard_documents}; each size in a process of its own,",
        "the fastest of three passes, on files just written, which the page cache holds as far as "
        "memory allows.",
        "",
        *markdown_table(COLUMNS, rows, _cell),
        "",
        "What larger corpora would cost, at the time a page of the largest one measured. A node is "
        "this machine with its",
        "share of the shards; disk in TB.",
        "",
        *markdown_table(COST_COLUMNS, costs, _cell),
    ]
    return "\n".join(lines) + "\n"


def _write(folder: Path, pages: int, shape: Shape) -> None:
    dataset = RetrievalDataset(
        name="synthetic",
        query_ids=[f"q{number}" for number in range(shape.queries)],
        queries=[""] * shape.queries,
        document_ids=[f"page-{number}" for number in range(pages)],
        documents=range(pages),
        qrels={},
    )
    encoder = _Synthetic(shape)
    for shard in range(shard_count(pages, shape.shard_documents)):
        embed(
            encoder,
            dataset,
            folder / str(shard),
            shard=shard,
            shard_documents=shape.shard_documents,
            batch_size=100,
            labels={},
            report=lambda message: None,
        )


def _score(first: Path) -> dict[str, Any]:
    return json.loads(run_alone(_SCORE, str(first)))


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = row[key]
    if isinstance(value, int):
        return f"{value:,}"
    digits = {"seconds": 1, "disk_gb": 2, "node-hours": 2}.get(key, 3 if "ms" in key else 0)
    return f"{value:,.{3 if key in Shape().page_bytes() else digits}f}"
