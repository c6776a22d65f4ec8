"""Latency of two runs: speed-ups first, milliseconds only where they mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from colport.base.names import REFERENCE_VARIANT
from colport.compare.findings import Finding
from colport.compare.intervals import median_interval, moved, of_runs
from colport.compare.results import Results, noise_note, other_baseline, place, same_machine
from colport.compare.stages import cost
from colport.timing.statistics import round_ratios

_Case = tuple[str, str, int]


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
    yield from of_runs("latency", runs, old, new, _run, threshold, " with the samples")


def _run(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], threshold: float
) -> Iterator[Finding]:
    threads = [record["settings"]["threads"] for record in (old, new)]
    if threads[0] != threads[1]:
        text = f"{threads[0]} threads before, {threads[1]} now"
        yield Finding("latency", "not compared", name, text)
        return
    versions = other_baseline(old, new)
    same = same_machine(old, new)
    if versions:
        text = f"speed-ups: another PyTorch baseline ({', '.join(versions)})"
        text += "; milliseconds are compared" if same else "; milliseconds neither: other machine"
        yield Finding("latency", "not compared", name, text)
    before, after = _ok(old), _ok(new)
    note = noise_note(old, new)
    for case in before:
        if case in after:
            yield from _case(case, before, after, not versions, same, threshold, note)
    yield from _memory(before, after)


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
        figure, text = "speedup_vs_pytorch", "speed-up {} -> {}"
        if same:
            text += ", {:.3g} -> {:.3g} ms".format(*map(np.median, milliseconds))
    elif same:
        rounds, figure, text = milliseconds, "p50_ms", "{} -> {} ms"
    else:
        if same_baseline:
            text = "no PyTorch reference in both runs, and another machine"
            yield Finding("latency", "not compared", name, text)
        return
    pair = [median_interval(values) for values in rounds]
    if None in pair:
        text = f"samples in {min(map(len, rounds))} rounds; an interval needs 5"
        yield Finding("latency", "not compared", name, text)
    else:
        text = text.format(*pair) + note
        more_is_better = figure == "speedup_vs_pytorch"
        yield from moved("latency", name, figure, pair, text, threshold, more_is_better)


def _milliseconds(row: Mapping[str, Any]) -> list[float]:
    return [float(np.median(durations)) / 1e6 for durations in row["rounds_ns"] if durations]


def _memory(
    old: Mapping[_Case, Mapping[str, Any]], new: Mapping[_Case, Mapping[str, Any]]
) -> Iterator[Finding]:
    """Peak memory of each contender's process; every row of it holds the same figure."""
    pairs = {}
    for case, row in old.items():
        if case in new:
            pairs.setdefault(row["variant"], (row, new[case]))
    for variant, rows in pairs.items():
        if variant != REFERENCE_VARIANT:
            text, name = "{:.0f} -> {:.0f} MB peak memory", place(rows[0], "provider")
            yield from cost("latency", name, "peak_rss_mb", rows, text)
