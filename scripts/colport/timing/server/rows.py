"""Rows of ``scenarios.csv`` from what was measured: pure functions, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from colport.base.columns import TABLES
from colport.base.names import REFERENCE_VARIANT
from colport.timing import statistics
from colport.timing.server.search import Probe, ServerRun, upper_bound
from colport.timing.server.settings import OFFLINE, SERVER, SINGLE_STREAM, ScenarioCase
from colport.timing.settings import Contender
from colport.timing.statistics import NS_PER_MS, cost_ratios, encoded, summarize

COLUMNS = TABLES["scenarios"].columns

make_row = partial(statistics.make_row, best=False)
"""See :func:`colport.timing.statistics.make_row`."""

Key = tuple[Any, ...]


def timed_row(
    row: Mapping[str, Any], scenario: str, rounds_ns: Sequence[Sequence[int]], sizes: Sequence[int]
) -> dict[str, Any]:
    """Single stream, one input after the other; or offline, all inputs at once.

    Args:
        row: Of :func:`colport.timing.statistics.make_row`: the same calls as latency.
        scenario: Which of the two.
        rounds_ns: Durations of calls by round, in nanoseconds.
        sizes: Inputs of each call of a pass; each round repeats passes.
    """
    known = {name: row.get(name) for name in COLUMNS} | {"scenario": scenario, "best": False}
    if row["status"] != "ok":
        return known
    known["stopped"] = any(len(calls) % len(sizes) or not calls for calls in rounds_ns)
    if scenario == SINGLE_STREAM:
        return {**known, "best": True}
    inputs = sum(encoded(len(calls), sizes) for calls in rounds_ns)
    taken = sum(duration for calls in rounds_ns for duration in calls)
    known |= dict.fromkeys(name for name in COLUMNS if name.endswith("_ms"))
    return {**known, "per_second": inputs * 1e9 / taken, "samples": inputs}


def round_costs(
    scenario: str, rounds_ns: Sequence[Sequence[int]], sizes: Sequence[int]
) -> list[float | None]:
    """The figure of each round of single stream or offline, as a cost: less is better.

    Args:
        scenario: Which of the two.
        rounds_ns: Durations of calls by round, in nanoseconds.
        sizes: Inputs of each call of a pass; each round repeats passes.

    Returns:
        Nanoseconds: the 90th percentile of single calls, or the mean of an input; ``None`` for a
        round without calls.
    """

    def cost(calls: Sequence[int]) -> float:
        if scenario == SINGLE_STREAM:
            return float(np.percentile(calls, 90))
        return sum(calls) / encoded(len(calls), sizes)

    return [cost(calls) if calls else None for calls in rounds_ns]


def server_rows(
    contender: Contender, kind: str, run: ServerRun, remark: str = ""
) -> list[dict[str, Any]]:
    """Server: a row for each rate that was offered, in the order of measuring.

    Args:
        contender: Whose rows they are.
        kind: ``query`` or ``document``.
        run: Its probes.
        remark: What each row says beside its figures.
    """
    best = run.best()
    case = ScenarioCase(kind, run.settings.max_batch, SERVER)

    def made(reason: str, **figures: Any) -> dict[str, Any]:
        found = {"target_ms": run.target_ms, "reason": "; ".join(filter(None, (remark, reason)))}
        names = (contender.model, contender.variant, contender.provider)
        return make_row(*names, case, **found, **figures)

    rows = [made(run.remark(), status="unsupported")] if best is None else []
    for probe in [*run.given, *run.probes]:
        if probe is best:
            rates = {"highest_rate": run.search.passed, "failed_rate": run.search.failed}
            rows.append(made(run.remark(), best=True, **rates, **_served(probe, run)))
        else:
            rows.append(made("", **_served(probe, run)))
    return rows


def mark_best(rows: Sequence[dict[str, Any]], costs: Mapping[Key, Sequence[float | None]]) -> None:
    """Fill in ``best`` of offline rows and ``speedup_vs_pytorch``, in place.

    The speed-up of a server is the ratio of highest rates, that of the others the median over
    rounds of the ratio of costs, each taken within seconds: a machine whose speed drifts does not
    move it.

    Args:
        rows: Of all contenders of a run; those of a scenario's batch sizes follow each other.
        costs: :func:`costs_of` the run.
    """
    for (*_, scenario, _), group in groupby(rows, lambda row: key_of(row)[:-1]):
        measured = [row for row in group if row["status"] == "ok"]
        if scenario == OFFLINE and measured:
            max(measured, key=lambda row: row["per_second"])["best"] = True
    chosen = [row for row in rows if row["best"] and row["status"] == "ok"]
    references = {
        (row["scenario"], row["kind"]): row for row in chosen if row["variant"] == REFERENCE_VARIANT
    }
    for row in chosen:
        reference = references.get((row["scenario"], row["kind"]))
        if reference is None:
            continue
        if row["scenario"] == SERVER:
            rates = row["highest_rate"], reference["highest_rate"]
            row["speedup_vs_pytorch"] = None if None in rates else rates[0] / rates[1]
        else:
            ratios = cost_ratios(costs[key_of(reference)], costs[key_of(row)])
            row["speedup_vs_pytorch"] = float(np.median(ratios)) if ratios else None


def costs_of(samples: Iterable[Mapping[str, Any]]) -> dict[Key, list[float | None]]:
    """Each round's figure, by key of the row.

    Args:
        samples: Of a record of :func:`colport.timing.server.scenarios.measure`.
    """
    return {
        key_of({**lane, **call}): call.get("round_costs_ns", [])  # older records have none
        for lane in samples
        for call in lane["calls"]
    }


def key_of(row: Mapping[str, Any]) -> Key:
    """What names a row of a run, rates apart."""
    return tuple(row[name] for name in ("variant", "provider", "scenario", "kind", "batch_size"))


def _served(probe: Probe, run: ServerRun) -> dict[str, Any]:
    """The figures of one rate."""
    known = summarize(probe.latencies_ns, 1)
    bound = None
    if not probe.stopped:
        bound = upper_bound(probe.latencies_ns, run.settings.confidence)
    return {
        **{name: known[name] for name in ("p50_ms", "p90_ms", "p99_ms", "samples")},
        "rate": probe.rate,
        "per_second": len(probe.latencies_ns) / probe.seconds,
        "meets_target": probe.meets(run.target_ms) if probe.allowed_slow >= 0 else None,
        "p99_bound_ms": None if bound is None else bound / NS_PER_MS,
        "slow": probe.slow(run.target_ms),
        "allowed_slow": probe.allowed_slow,
        "stopped": probe.stopped,
        "mean_batch": float(np.mean(probe.batches)),
    }
