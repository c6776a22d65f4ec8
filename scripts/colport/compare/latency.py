"""Latency of two runs: speed-ups first, milliseconds only where they mean the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from colport.compare.findings import Finding, changed
from colport.compare.results import Results, is_number, place, same_machine
from colport.compare.stages import COST
from colport.latency.statistics import round_ratios
from colport.recommendation import REFERENCE_VARIANT

COVERAGE = 0.90
"""Least probability with which an interval holds the median of the rounds."""

BASELINE = ("torch", "transformers", "sentence-transformers", "colpali-engine")
"""Packages whose versions make two PyTorch references the same one."""

_Case = tuple[str, str, int]


@dataclass(frozen=True)
class Interval:
    """A median over rounds and where it lies."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def overlaps(self, other: Interval) -> bool:
        """Whether they share a value."""
        return self.low <= other.high and other.low <= self.high

    def change(self, other: Interval) -> float:
        """The larger median over the smaller one, less 1."""
        return max(self.median, other.median) / min(self.median, other.median) - 1


def median_interval(values: Sequence[float]) -> Interval | None:
    """Distribution-free interval of the median from order statistics.

    Ranks ``k`` and ``n + 1 - k`` hold the median with probability ``1 - 2 P(B < k)``, ``B``
    binomial with ``n`` and a half (David and Nagaraja, Order Statistics, 2003, section 7.1); the
    narrowest that reaches :data:`COVERAGE` is taken.

    Args:
        values: One figure a round.

    Returns:
        ``None`` for fewer than five values, whose whole range does not reach it.
    """
    ordered = sorted(values)
    n, rank, outside = len(ordered), 0, 0.0
    while rank < (n + 1) // 2:
        outside += 2 * math.comb(n, rank) / 2**n
        if outside > 1 - COVERAGE:
            break
        rank += 1
    if rank == 0:
        return None
    return Interval(float(np.median(ordered)), ordered[rank - 1], ordered[n - rank])


def latency(old: Results, new: Results, threshold: float) -> Iterator[Finding]:
    """Speed-ups and milliseconds of every run that both folders have.

    A speed-up is compared where both runs had the same PyTorch baseline and threads. Milliseconds
    are compared instead where it is another baseline, or none ran, on the same machine.
    """
    runs = dict.fromkeys(
        (row["model"], row["provider"])
        for row in old.rows("latency").values()
        if not row["provider"].startswith("torch-") and row["status"] == "ok"
    )
    for model, provider in runs:
        before = old.record("latency", model, provider)
        after = new.record("latency", model, provider)
        if before is None or after is None:
            missing = (old if before is None else new).folder
            text = f"latency/{model}/{provider}.json with the samples is not in {missing}"
            yield Finding("latency", "not compared", f"{model} {provider}", text)
        else:
            yield from _run(f"{model} {provider}", before, after, threshold)


def _run(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], threshold: float
) -> Iterator[Finding]:
    if "settings" not in old or "settings" not in new:
        return  # nothing was measured in one of them, its rows say why
    threads = [record["settings"]["threads"] for record in (old, new)]
    if threads[0] != threads[1]:
        text = f"{threads[0]} threads before, {threads[1]} now"
        yield Finding("latency", "not compared", name, text)
        return
    versions = _other_versions(old, new)
    same = same_machine(old, new)
    if versions:
        text = f"speed-ups: another PyTorch baseline ({', '.join(versions)})"
        text += "; milliseconds are compared" if same else "; milliseconds neither: other machine"
        yield Finding("latency", "not compared", name, text)
    before, after = _ok(old), _ok(new)
    noisy = [word for word, record in (("old", old), ("new", new)) if record["noise"]["noisy"]]
    note = f"; noisy machine in the {' and the '.join(noisy)} run" if noisy else ""
    found = [
        finding
        for case in before
        if case in after
        for finding in _case(case, before, after, not versions, same, threshold, note)
    ]
    yield from (finding for finding in found if finding.verdict != "undecided")
    yield from _undecided(name, [item for item in found if item.verdict == "undecided"], threshold)
    yield from _memory(before, after)


def _undecided(name: str, found: Sequence[Finding], threshold: float) -> Iterator[Finding]:
    """One line for all cases of a run whose spread is wider than their change."""
    if found:
        most = max(found, key=lambda item: item.weight)
        text = f"{len(found)} moved by more than {threshold:.0%} with overlapping intervals, most: "
        yield replace(most, place=name, text=f"{text}{most.place} {most.text}")


def _other_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    packages = [record["environment"]["packages"] for record in (old, new)]
    return [
        f"{name} {packages[0].get(name)} -> {packages[1].get(name)}"
        for name in BASELINE
        if packages[0].get(name) != packages[1].get(name)
    ]


def _ok(record: Mapping[str, Any]) -> dict[_Case, Mapping[str, Any]]:
    """Measured rows by variant, kind and batch size, each with its ``rounds_ns``."""
    key = ("variant", "kind", "batch_size")
    samples = {tuple(item[name] for name in key): item["rounds_ns"] for item in record["samples"]}
    rows = {tuple(row[name] for name in key): row for row in record["rows"]}
    return {
        case: {**row, "rounds_ns": samples[case]}
        for case, row in rows.items()
        if row["status"] == "ok"
    }


def _case(
    case: _Case,
    old: Mapping[_Case, Mapping[str, Any]],
    new: Mapping[_Case, Mapping[str, Any]],
    same_baseline: bool,
    same: bool,
    threshold: float,
    note: str,
) -> Iterator[Finding]:
    variant, kind, batch_size = case
    name = f"{place(old[case], 'provider')} {kind} x{batch_size}"
    if any(old[case][key] != new[case][key] for key in ("tokens", "image_size")):
        yield Finding("latency", "not compared", name, "inputs of another size")
        return
    reference = (REFERENCE_VARIANT, kind, batch_size)
    milliseconds = [_milliseconds(rows[case]) for rows in (old, new)]
    if same_baseline and reference in old and reference in new:
        if variant == REFERENCE_VARIANT:
            return
        rounds = [
            round_ratios(rows[reference]["rounds_ns"], rows[case]["rounds_ns"])
            for rows in (old, new)
        ]
        figure, unit = "speedup_vs_pytorch", ""
        shown = ["speed-up", "" if not same else _both(milliseconds)]
    elif same:
        rounds, figure, unit = milliseconds, "p50_ms", " ms"
        shown = ["", ""]
    else:
        if same_baseline:
            text = "no PyTorch reference in both runs, and another machine"
            yield Finding("latency", "not compared", name, text)
        return
    pair = [median_interval(values) for values in rounds]
    if None in pair:
        text = f"samples in {min(map(len, rounds))} rounds; an interval needs 5"
        yield Finding("latency", "not compared", name, text)
    elif pair[0].change(pair[1]) > threshold:
        text = f"{shown[0]} {pair[0]} -> {pair[1]}{unit}{shown[1]}{note}".strip()
        costs = [item.median for item in pair]
        if figure == "speedup_vs_pytorch":
            costs = [1 / value for value in costs]
        found = changed("latency", name, figure, *costs, text)
        verdict = "undecided" if pair[0].overlaps(pair[1]) else found.verdict
        yield replace(found, verdict=verdict, old=pair[0].median, new=pair[1].median)


def _milliseconds(row: Mapping[str, Any]) -> list[float]:
    return [float(np.median(durations)) / 1e6 for durations in row["rounds_ns"] if durations]


def _both(milliseconds: Sequence[Sequence[float]]) -> str:
    old, new = (np.median(values) for values in milliseconds)
    return f", {old:.3g} -> {new:.3g} ms"


def _memory(
    old: Mapping[_Case, Mapping[str, Any]], new: Mapping[_Case, Mapping[str, Any]]
) -> Iterator[Finding]:
    """Peak memory of each contender's process; every row of it holds the same figure."""
    seen = set()
    for case in old:
        before, row = old[case], new.get(case)
        if row is None or before["variant"] in seen or before["variant"] == REFERENCE_VARIANT:
            continue
        seen.add(before["variant"])
        values = before["peak_rss_mb"], row["peak_rss_mb"]
        if all(map(is_number, values)) and abs(values[1] - values[0]) > COST * min(values):
            text = f"{values[0]:.0f} -> {values[1]:.0f} MB peak memory"
            text += f" ({values[1] / values[0] - 1:+.0%})"
            name = place(before, "provider")
            yield changed("latency", name, "peak_rss_mb", *values, text)
