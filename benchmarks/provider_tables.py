"""The Markdown page of ``python -m benchmarks.providers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.tables import Table
from colport.base import machine as environment

_HEADINGS = {
    "model": "model",
    "kind": "kind",
    "batch_size": "batch",
    "variant": "variant",
    "provider": "on",
    "p50_ms": "p50 ms",
    "graph_ms": "graph ms",
    "per_second": "inputs/s",
    "speedup_vs_bf16": "vs PyTorch bf16",
    "graph_speedup_vs_bf16": "graph vs PyTorch bf16",
    "speedup_vs_pytorch": "vs PyTorch fp32",
    "gpu_peak_mb": "GPU MiB",
    "mean_cosine": "mean cosine",
    "min_cosine": "min cosine",
}
"""Column of a latency row to its heading."""

_COSINES = ("mean cosine", "min cosine")
LATENCY = Table(
    {
        **dict.fromkeys(("model", "kind", "batch", "variant", "on"), ""),
        **dict.fromkeys(list(_HEADINGS.values())[5:-2], ".2f"),
    }
)
PARITY = Table(
    {
        **dict.fromkeys(("model", "kind", "variant", "on"), ""),
        **dict.fromkeys(_COSINES, ".6f"),
    }
)
PROBLEMS = Table(dict.fromkeys(("model", "variant", "on", "cases", "status", "reason"), ""))
NOT_RUN = Table(dict.fromkeys(("model", "what", "reason"), ""))

_NOTES = {
    "Latency": "p50 of whole calls, preprocessing and copies included; `graph ms` is the model "
    "alone, from host to host; `vs` is how many times as fast. "
    "Contenders of one device took turns in one run.",
    "Parity": "Token embeddings against PyTorch in fp32 on the same device, the least over "
    "batch sizes.",
}


def markdown(record: Mapping[str, Any]) -> str:
    """Every table of a run, with the machine, the date and the commit.

    Args:
        record: Of :func:`benchmarks.providers.run`.
    """
    rows = [{_HEADINGS.get(key, key): row[key] for key in row} for row in record["rows"]]
    measured = [row for row in rows if row["status"] == "ok"]
    sections = {
        "Latency": _table(LATENCY, measured, "Nothing ran."),
        "Parity": _table(PARITY, parity(measured), "Nothing ran."),
        "Unsupported or failed": _table(PROBLEMS, problems(rows), "None."),
        "Not run": _table(NOT_RUN, record["not_run"], "Nothing was left out."),
        "Noise": _noise(record["noise"]),
    }
    lines = [*_heading(record)]
    for title, body in sections.items():
        note = [_NOTES[title], ""] if title in _NOTES else []
        lines += ["", f"## {title}", "", *note, *body]
    return "\n".join(lines) + "\n"


def parity(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cosines of each contender but the reference, the least over batch sizes."""
    return _grouped(
        [row for row in rows if row["variant"] != "pytorch"],
        ["model", "kind", "variant", "on"],
        dict.fromkeys(_COSINES, "min"),
    )


def problems(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each contender and reason, with the cases that it holds for."""
    return _grouped(
        [
            {**row, "cases": f"{row['kind']} {row['batch']}"}
            for row in rows
            if row["status"] != "ok"
        ],
        ["model", "variant", "on", "status", "reason"],
        {"cases": ", ".join},
    )


def _grouped(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], rest: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row for all with the same ``names``, in the order of the first ones."""
    if not rows:
        return []
    frame = pd.DataFrame(rows).groupby(names, sort=False, as_index=False, dropna=False).agg(rest)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _heading(record: Mapping[str, Any]) -> list[str]:
    machine = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        "# Providers",
        "",
        f"{record['started']}, commit {record['commit']}; {record['seconds']:.0f} s of the "
        f"{record['limit_seconds']:.0f} s allowed.",
        "",
        f"- GPU: {machine['gpu'] or 'no NVIDIA GPU'}",
        f"- Machine: {environment.in_words(machine)}, {machine['memory_mb'] / 1024:.0f} GiB",
        f"- {machine['platform']}, Python {machine['python']}",
        f"- {versions}",
    ]


def _noise(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {item['model']} on {item['device']}: "
        + ("noisy: " + "; ".join(item["reasons"]) if item["noisy"] else "quiet")
        for item in verdicts
    ] or ["Nothing ran."]


def _table(table: Table, rows: Sequence[Mapping[str, Any]], nothing: str) -> list[str]:
    return table.markdown(rows) if rows else [nothing]
