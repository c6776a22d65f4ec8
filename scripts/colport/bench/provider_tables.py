"""The Markdown page of ``colport bench providers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from colport import environment
from colport.bench.tables import markdown_table

LATENCY = {
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
}
"""Column of a row to its heading."""

PARITY = ("model", "kind", "variant", "on", "mean cosine", "min cosine")
PROBLEMS = ("model", "variant", "on", "cases", "status", "reason")
NOT_RUN = ("model", "what", "reason")


def markdown(record: Mapping[str, Any]) -> str:
    """Every table of a run, with the machine, the date and the commit.

    Args:
        record: Of :func:`colport.bench.providers.run`.
    """
    measured = [row for row in record["rows"] if row["status"] == "ok"]
    headings = list(LATENCY.values())
    named = [{LATENCY[key]: row[key] for key in LATENCY} for row in measured]
    sections = [
        ("Latency", markdown_table(headings, named, _cell) if measured else ["Nothing ran."]),
        ("Parity", _table(PARITY, parity(measured), "Nothing ran.")),
        ("Unsupported or failed", _table(PROBLEMS, problems(record["rows"]), "None.")),
        ("Not run", _table(NOT_RUN, record["not_run"], "Nothing was left out.")),
        ("Noise", _noise(record["noise"])),
    ]
    notes = {
        "Latency": "p50 of whole calls, preprocessing and copies included; `graph ms` is the model "
        "alone, from host to host; `vs` is how many times as fast. "
        "Contenders of one device took turns in one run.",
        "Parity": "Token embeddings against PyTorch in fp32 on the same device, the least over "
        "batch sizes.",
    }
    lines = [*_heading(record)]
    for title, body in sections:
        note = [notes[title], ""] if title in notes else []
        lines += ["", f"## {title}", "", *note, *body]
    return "\n".join(lines) + "\n"


def parity(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cosines of each contender but the reference, the least over batch sizes."""
    grouped: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["variant"] != "pytorch":
            names = (row["model"], row["kind"], row["variant"], row["provider"])
            grouped.setdefault(names, []).append(row)
    found = []
    for names, same in grouped.items():
        least = [
            min((row[key] for row in same if row[key] is not None), default=None)
            for key in ("mean_cosine", "min_cosine")
        ]
        found.append(dict(zip(PARITY, (*names, *least), strict=True)))
    return found


def problems(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each contender and reason, with the cases that it holds for."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            key = (row["model"], row["variant"], row["provider"], row["status"], row["reason"])
            grouped.setdefault(key, []).append(f"{row['kind']} {row['batch_size']}")
    return [
        {
            **dict(zip(("model", "variant", "on", "status", "reason"), key, strict=True)),
            "cases": ", ".join(cases),
        }
        for key, cases in grouped.items()
    ]


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


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], nothing: str) -> list[str]:
    return markdown_table(columns, rows, _cell) if rows else [nothing]


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, float):
        return " ".join(str(value).replace("|", "\\|").split())
    return f"{value:.6f}" if "cosine" in column else f"{value:.2f}"
