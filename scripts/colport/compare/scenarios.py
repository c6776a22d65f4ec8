"""Single stream, offline and server of two runs, each against PyTorch in its own run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from colport.base.names import REFERENCE_VARIANT
from colport.compare.findings import Finding
from colport.compare.intervals import Interval, median_interval, moved, of_runs
from colport.compare.results import Results, noise_note, other_baseline, place
from colport.timing.server.rows import Key, costs_of, key_of
from colport.timing.server.settings import SERVER
from colport.timing.statistics import cost_ratios

GROUP = "scenarios"

_Case = tuple[str, str, str]
_SAME = ("threads", "inputs", "offline", "server")
"""Settings without which two figures do not mean the same."""


def scenarios(old: Results, new: Results, threshold: float) -> Iterator[Finding]:
    """The scenarios of every model and provider that both folders have."""
    files = sorted(old.folder.glob(f"{GROUP}/*/*.json"))
    runs = [(file.parent.name, file.stem) for file in files]
    yield from of_runs(GROUP, runs, old, new, _run, threshold)


def _run(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], threshold: float
) -> Iterator[Finding]:
    other = [key for key in _SAME if old["settings"][key] != new["settings"][key]]
    if other:
        yield Finding(GROUP, "not compared", name, f"other settings: {', '.join(other)}")
        return
    before, after = _chosen(old), _chosen(new)
    for case, row in before.items():
        if row["status"] == "ok" and after.get(case, row)["status"] != "ok":
            text = f"ok -> {after[case]['status']} ({after[case]['reason']})"
            yield Finding(GROUP, "worse", _name(row), text)
    if versions := other_baseline(old, new):
        text = f"another PyTorch baseline ({', '.join(versions)})"
        yield Finding(GROUP, "not compared", name, text)
        return
    costs = costs_of(old["samples"]), costs_of(new["samples"])
    for case in before:
        if case[0] != REFERENCE_VARIANT:
            yield from _case(case, (before, after), costs, threshold, noise_note(old, new))


def _case(
    case: _Case,
    rows: tuple[Mapping[_Case, Any], Mapping[_Case, Any]],
    costs: tuple[Mapping[Key, Any], Mapping[Key, Any]],
    threshold: float,
    note: str,
) -> Iterator[Finding]:
    reference = (REFERENCE_VARIANT, *case[1:])
    pairs = [(run.get(case), run.get(reference)) for run in rows]
    if any(row is None or row["status"] != "ok" for pair in pairs for row in pair):
        return
    name = _name(pairs[0][0])
    if case[1] == SERVER:
        found = [_rate_ratio(*pair) for pair in pairs]
        missing = "highest rate is not known on both sides"
    else:
        ratios = [
            cost_ratios(known[key_of(theirs)], known[key_of(own)])
            for (own, theirs), known in zip(pairs, costs, strict=True)
        ]
        found = [median_interval(values) for values in ratios]
        missing = f"{min(map(len, ratios))} rounds; an interval needs 5"
    if None in found:
        yield Finding(GROUP, "not compared", name, missing)
        return
    text = f"speed-up {found[0]} -> {found[1]}{note}"
    for finding in moved(GROUP, name, "speedup_vs_pytorch", found, text, threshold, True):
        # A rate that passed is proven, one that failed may have met a slow moment.
        yield replace(finding, verdict="undecided") if case[1] == SERVER else finding


def _rate_ratio(own: Mapping[str, Any], reference: Mapping[str, Any]) -> Interval | None:
    """Highest rate over PyTorch's; each lies between a rate that passed and one that failed."""
    rates = [row[key] for row in (own, reference) for key in ("highest_rate", "failed_rate")]
    if None in rates:
        return None
    passed, failed, their_passed, their_failed = rates
    return Interval(passed / their_passed, passed / their_failed, failed / their_passed)


def _chosen(record: Mapping[str, Any]) -> dict[_Case, Mapping[str, Any]]:
    """The row that stands for each scenario, or one that says why there is none."""
    rows = sorted(record["rows"], key=lambda row: row["best"])  # the best one last
    return {
        (row["variant"], row["scenario"], row["kind"]): row
        for row in rows
        if row["best"] or row["status"] != "ok"
    }


def _name(row: Mapping[str, Any]) -> str:
    return f"{place(row, 'provider')} {row['kind']} {row['scenario'].replace('_', ' ')}"
