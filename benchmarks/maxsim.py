"""``python -m benchmarks.maxsim``: how fast late-interaction scores are computed, and by whom.

Each contender has a process of its own and they take turns, as in every latency run. The best
plain fp32 matrix product of the same tokens, by any installed library, is what each is a share of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import SCRATCH, Output, Threads, publish, start
from benchmarks.maxsim_contenders import CONTENDERS, MATMULS, read_inputs, write_inputs
from benchmarks.tables import Table, measured_on
from colport.base import machine
from colport.base.errors import ConfigError
from colport.base.files import scratch_folder
from colport.timing.runner import measure
from colport.timing.settings import Contender, Inputs, LatencySettings

TABLE = Table(
    {
        **dict.fromkeys(("case", "contender"), ""),
        "ms": ".2f",
        "gflops": ".0f",
        "of_matmul": ".0%",
        "error": ".1e",
        "same_top_10": ".0%",
        "extra_mb": ".0f",
    }
)
"""The fastest call, since whatever else runs only makes calls longer; its rate; share of the best
product; largest error of a score against float64; share of queries with the same ten best
documents; by how much a second call lets the memory of the process grow."""

_DIM = 128
_TOP = 10


@dataclass(frozen=True)
class _Shape:
    """Numbers of queries and documents, and their tokens: a range for documents."""

    queries: int
    query_tokens: int
    documents: int
    document_tokens: tuple[int, int]


SHAPES = {
    "colpali": _Shape(50, 20, 500, (1030, 1030)),
    "colbert": _Shape(50, 32, 2000, (20, 300)),
    "rerank": _Shape(1, 20, 100, (1030, 1030)),
    "small": _Shape(3, 4, 20, (5, 9)),
}
"""Cases of random embeddings; any other case is a folder of stored ones."""


def run(
    cases: Sequence[str],
    scratch: Path,
    settings: LatencySettings,
    report: Callable[[str], None],
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> dict[str, Any]:
    """Measure every contender on every case.

    Args:
        cases: Names of :data:`SHAPES`, or folders with ``queries.safetensors`` and
            ``documents.safetensors`` as ``colport`` stores them.
        scratch: Folder for the embeddings, removed afterwards.
        settings: How long and how often to measure.
        report: Called with each row as it is ready.
        contenders: Names of :data:`benchmarks.maxsim_contenders.CONTENDERS`, a plain product
            among them.

    Returns:
        ``rows`` with the columns of :data:`TABLE` and ``reason``, and the ``environment``.
    """
    rows = []
    for case in cases:
        with scratch_folder(scratch / "maxsim") as folder:
            queries, documents = _embeddings(case)
            write_inputs(folder, queries, documents)
            expected = _reference(queries, documents)
            operations = 2 * len(queries[0][0]) * _tokens(queries) * _tokens(documents)
            given = {"folder": str(folder), "threads": settings.threads}
            factory = "benchmarks.maxsim_contenders:contender"
            workers = [
                Contender(case, name, "cpu", factory, {"name": name, **given})
                for name in contenders
            ]
            record = measure(workers, Inputs(queries=("",)), settings, lambda message: None)
            name = case if case in SHAPES else Path(case).name
            for row in _rows(name, record["rows"], operations, expected, folder):
                rows.append(row)
                report(TABLE.line(_shown(row)))
    return {"rows": rows, "environment": machine.describe()}


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    how = ", in one interleaved run a case"
    lines = [
        measured_on(record["environment"], "onnxruntime", "torch", how=how),
        "",
        *TABLE.markdown([_shown(row) for row in record["rows"]]),
    ]
    return "\n".join(lines) + "\n"


def main(
    cases: Annotated[
        str,
        typer.Option(
            help="Comma-separated: colpali, colbert, rerank (random embeddings), or folders with "
            "queries.safetensors and documents.safetensors."
        ),
    ] = "colpali,colbert,rerank",
    threads: Threads = 2,
    scratch: Annotated[
        Path, typer.Option(help="Where embeddings are written, then removed.")
    ] = SCRATCH,
    output: Output = None,
) -> None:
    """Compare the scoring of embeddings with other libraries and with plain matrix products.

    \b
    Example: python -m benchmarks.maxsim --cases colpali,rerank --output maxsim.md
    """
    settings = LatencySettings(
        batch_sizes=(1,),
        rounds=6,
        min_samples=6,
        min_seconds=0.3,
        max_seconds=10,
        warmup_max_calls=1,
        precision=0,
        threads=threads,
    )
    publish(markdown(run(cases.split(","), scratch, settings, typer.echo)), output)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the reason in place of a time that there is not."""
    return {**row, "ms": row["reason"] if row["ms"] is None else row["ms"]}


def _embeddings(case: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if case not in SHAPES:
        if not Path(case).is_dir():
            known = ", ".join(SHAPES)
            raise ConfigError(f"case: {case!r} is unknown; allowed are {known} and a folder.")
        stored = read_inputs(Path(case))
        return list(stored[0]), list(stored[1])
    shape = SHAPES[case]
    rng = np.random.default_rng(0)
    lengths = rng.integers(*shape.document_tokens, shape.documents, endpoint=True)
    # Tokens of a page have something in common; queries have some of it.
    topics = rng.standard_normal((shape.documents, 1, _DIM), np.float32)
    documents = [
        _normalised(topic + rng.standard_normal((length, _DIM), np.float32))
        for topic, length in zip(topics, lengths, strict=True)
    ]
    queries = [
        _normalised(topic / 2 + rng.standard_normal((shape.query_tokens, _DIM), np.float32))
        for topic in topics[: shape.queries]
    ]
    return queries, documents


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _tokens(items: Sequence[np.ndarray]) -> int:
    return sum(len(item) for item in items)


def _reference(queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
    """Scores in float64."""
    tokens = np.concatenate(queries).astype(np.float64)
    lengths = np.array([len(query) for query in queries])
    best = np.stack([(document @ tokens.T).max(axis=0) for document in documents])
    return np.add.reduceat(best, np.cumsum(lengths) - lengths, axis=1).T


def _rows(
    case: str,
    measured: Sequence[Mapping[str, Any]],
    operations: float,
    expected: np.ndarray,
    folder: Path,
) -> list[dict[str, Any]]:
    limit = max(
        operations / row["min_ms"]
        for row in measured
        if row["variant"] in MATMULS and row["status"] == "ok"
    )
    rows = []
    for found in measured:
        name = found["variant"]
        row: dict[str, Any] = {**dict.fromkeys(TABLE.columns), "case": case, "contender": name}
        rows.append(row)
        row["reason"] = found["reason"]
        if found["status"] != "ok":
            continue
        rate = operations / found["min_ms"]
        row |= {"ms": found["min_ms"], "gflops": rate / 1e6, "of_matmul": rate / limit}
        row |= json.loads((folder / f"{name}.json").read_text())
        if name not in MATMULS:
            scores = np.load(folder / f"{name}.npy", allow_pickle=False)
            row["error"] = float(np.abs(scores - expected).max())
            row["same_top_10"] = float(np.mean(_top(scores) == _top(expected)))
    return rows


def _top(scores: np.ndarray) -> np.ndarray:
    """The ten best documents of each query, as one object each."""
    best = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :_TOP], axis=1)
    return np.array([row.tobytes() for row in best], dtype=object)


if __name__ == "__main__":
    start(main)
