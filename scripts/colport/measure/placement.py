"""Which execution provider ran what: nodes and time of a graph that falls back in part."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from colport.base.columns import row

if TYPE_CHECKING:
    import pandas as pd

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
    times = median_ms(calls, "provider")
    names = dict.fromkeys([execution_provider, *taken, *times])
    spent, nodes = sum(times.values()), sum(taken.values())
    return [
        row(
            "providers",
            **labels,
            execution_provider=name,
            nodes=taken.get(name, 0),
            node_share=taken.get(name, 0) / nodes if nodes else None,
            ms=times.get(name, 0.0),
            time_share=times.get(name, 0.0) / spent if spent else None,
        )
        for name in names
    ]


def median_ms(calls: Sequence[Sequence[Mapping[str, Any]]], key: str) -> dict[str, float]:
    """Milliseconds of a call by what its nodes' events say under ``key``, the median over calls."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(calls))
    for number, call in enumerate(calls):
        for event in call:
            sums[event["args"][key]][number] += event["dur"] / 1e3
    return {name: statistics.median(values) for name, values in sums.items()}


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
