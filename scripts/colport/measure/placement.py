"""Which execution provider ran what: nodes and time of a graph that falls back in part."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

COLUMNS = (
    *("model", "variant", "provider", "kind", "execution_provider"),
    *("nodes", "node_share", "ms", "time_share", "status", "reason"),
)
"""Columns of ``providers.csv``: a row an execution provider that took nodes of a graph.

``nodes`` are those that ONNX Runtime gave it, before it fuses them; ``ms`` is the median over calls
of its nodes' time under the profiler.
"""

TOLD = 0.03
"""Share of a graph's time from which on latency rows say that it ran elsewhere."""


def rows(
    labels: Mapping[str, str],
    execution_provider: str,
    calls: Sequence[Sequence[Mapping[str, Any]]],
    taken: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Rows of one graph, the chosen execution provider first.

    Args:
        labels: ``model``, ``variant``, ``provider`` and ``kind``.
        execution_provider: The one that was chosen; it has a row even if it ran nothing.
        calls: Node events of each call.
        taken: Execution provider to the nodes that it took.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(calls))
    for number, call in enumerate(calls):
        for event in call:
            sums[event["args"]["provider"]][number] += event["dur"] / 1e3
    times = {name: statistics.median(values) for name, values in sums.items()}
    names = dict.fromkeys([execution_provider, *taken, *times])
    spent, nodes = sum(times.values()), sum(taken.values())
    return [
        {
            **labels,
            "execution_provider": name,
            "nodes": taken.get(name, 0),
            "node_share": taken.get(name, 0) / nodes if nodes else None,
            "ms": times.get(name, 0.0),
            "time_share": times.get(name, 0.0) / spent if spent else None,
            "status": "ok",
            "reason": "",
        }
        for name in names
    ]


def unsupported(labels: Mapping[str, str], reason: str) -> dict[str, Any]:
    """The row of a variant that a provider does not run."""
    empty = {**dict.fromkeys(COLUMNS), "kind": "", "execution_provider": ""}
    return {**empty, **labels, "status": "unsupported", "reason": reason}


def table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``providers.csv`` from the records of :func:`colport.measure.profile.profile`."""
    return pd.DataFrame([row for record in records for row in record["placement"]], columns=COLUMNS)


def mark_fallback(latency: pd.DataFrame, placement: pd.DataFrame) -> None:
    """Say in each measured latency row what share of its graph's time ran elsewhere, in place."""
    place = ["model", "variant", "provider", "kind"]
    measured = placement[placement["status"] == "ok"]
    for key, group in measured.groupby(place, sort=False):
        others = group.iloc[1:]
        told = others[others["time_share"] >= TOLD]
        if told.empty:
            continue
        parts = [
            f"{row['time_share']:.0%} of the graph's time is on {row['execution_provider']}"
            for _, row in told.iterrows()
        ]
        same = (latency[place] == list(key)).all(axis=1) & (latency["status"] == "ok")
        latency.loc[same, "reason"] = [
            "; ".join([*([reason] if reason else []), *parts])
            for reason in latency.loc[same, "reason"]
        ]
