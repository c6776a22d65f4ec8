"""Rows of ``scenarios.csv`` from what was measured: pure functions, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from colport.latency.early_stopping import upper_bound
from colport.latency.intervals import percentile_interval
from colport.latency.probes import PERCENTILE, Probe, ServerRun
from colport.latency.scenario_settings import (
    OFFLINE,
    SERVER,
    SINGLE_STREAM,
    ScenarioSettings,
)
from colport.latency.settings import KINDS, REFERENCE_VARIANT, Contender
from colport.latency.statistics import cost_ratios

COLUMNS = (
    *("model", "variant", "provider", "scenario", "kind", "batch_size", "target_ms", "rate"),
    *("per_second", "p50_ms", "p90_ms", "p99_ms", "samples", "meets_target", "highest_rate"),
    *("speedup_vs_pytorch", "status", "reason", "best", "failed_rate", "p90_low_ms"),
    *("p90_high_ms", "p99_bound_ms", "slow", "allowed_slow", "stopped", "mean_batch"),
)
"""Columns of every row.

``best`` marks the row that stands for its scenario, with ``speedup_vs_pytorch``: by ``p90_ms`` in
single stream, by ``per_second`` offline, by ``highest_rate`` for a server. The other rows are
further batch sizes and further rates. ``batch_size`` is a server's largest batch. ``stopped`` says
that a run ended before all its inputs: by ``max_seconds``, or a server's because it had missed its
target.
"""

_NS_PER_MS = 1e6

Key = tuple[Any, ...]


def make_row(
    contender: Contender, scenario: str, kind: str, batch_size: int, **figures: Any
) -> dict[str, Any]:
    """One row with every column in order; figures that are not given are ``None``.

    Raises:
        KeyError: A figure is not a column.
    """
    names = (contender.model, contender.variant, contender.provider)
    return _row(*names, scenario, kind, batch_size, **figures)


def stream_row(
    contender: Contender, kind: str, rounds_ns: Sequence[Sequence[int]], inputs: int
) -> dict[str, Any]:
    """Single stream: one input after the other.

    Args:
        contender: Whose row it is.
        kind: ``query`` or ``document``.
        rounds_ns: Durations by round, in nanoseconds.
        inputs: Inputs of a pass; each round repeats passes.
    """
    durations = [duration for durations in rounds_ns for duration in durations]
    low, high = percentile_interval(rounds_ns, 0.90)
    return make_row(
        contender,
        SINGLE_STREAM,
        kind,
        1,
        **_percentiles(durations),
        per_second=1e9 / float(np.mean(durations)),
        best=True,
        stopped=_is_cut(rounds_ns, inputs),
        p90_low_ms=None if low is None else low / _NS_PER_MS,
        p90_high_ms=None if high is None else high / _NS_PER_MS,
    )


def offline_row(
    contender: Contender,
    kind: str,
    batch_size: int,
    rounds_ns: Sequence[Sequence[int]],
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Offline: all inputs at once, in calls of at most ``batch_size``.

    Args:
        contender: Whose row it is.
        kind: ``query`` or ``document``.
        batch_size: The largest call.
        rounds_ns: Durations of calls by round, in nanoseconds.
        sizes: Inputs of each call of a pass; each round repeats passes.
    """
    encoded = sum(_encoded(len(calls), sizes) for calls in rounds_ns)
    taken = sum(duration for calls in rounds_ns for duration in calls)
    return make_row(
        contender,
        OFFLINE,
        kind,
        batch_size,
        per_second=encoded * 1e9 / taken,
        samples=encoded,
        stopped=_is_cut(rounds_ns, len(sizes)),
    )


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
    return [
        (
            float(np.percentile(calls, 90))
            if scenario == SINGLE_STREAM
            else sum(calls) / _encoded(len(calls), sizes)
        )
        if calls
        else None
        for calls in rounds_ns
    ]


def server_rows(contender: Contender, kind: str, run: ServerRun) -> list[dict[str, Any]]:
    """Server: a row for each rate that was offered, in the order of measuring."""
    best = run.best()
    rows = []
    if best is None:
        limit = {"target_ms": run.target_ms, "status": "unsupported", "reason": run.remark()}
        rows.append(make_row(contender, SERVER, kind, run.settings.max_batch, **limit))
    for probe in [*run.given, *run.probes]:
        row = _probe_row(contender, kind, run, probe)
        if probe is best:
            row.update(best=True, highest_rate=run.search.passed, failed_rate=run.search.failed)
            row.update(reason=run.remark())
        rows.append(row)
    return rows


def mark_best(rows: Iterable[dict[str, Any]], costs: Mapping[Key, Sequence[float | None]]) -> None:
    """Fill in ``best`` of offline rows and ``speedup_vs_pytorch``, in place.

    The speed-up of a server is the ratio of highest rates, that of the others the median over
    rounds of the ratio of costs, each taken within seconds: a machine whose speed drifts does not
    move it.

    Args:
        rows: Of all contenders of a run.
        costs: :func:`round_costs` of each row but a server's, by :func:`key_of` the row.
    """
    rows = list(rows)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        row["best"] = bool(row["best"])
        if row["scenario"] == OFFLINE and row["status"] == "ok":
            key = (row["variant"], row["provider"], row["kind"])
            groups.setdefault(key, []).append(row)
    for group in groups.values():
        max(group, key=lambda row: row["per_second"])["best"] = True
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


def key_of(row: Mapping[str, Any]) -> Key:
    """What names a row of a run, rates apart."""
    return tuple(row[name] for name in ("variant", "provider", "scenario", "kind", "batch_size"))


def unsupported_rows(
    model: str, variant: str, provider: str, settings: ScenarioSettings, reason: str
) -> list[dict[str, Any]]:
    """Rows of a contender that cannot run here, one a scenario and kind.

    Args:
        model: The model's name.
        variant: The variant's name.
        provider: The execution provider.
        settings: Which scenarios were asked for.
        reason: Why not, one sentence.
    """
    sizes = {SINGLE_STREAM: 1, OFFLINE: max(settings.offline.batch_sizes)}
    sizes[SERVER] = settings.server.max_batch
    limit = {"status": "unsupported", "reason": reason, "best": False}
    return [
        _row(model, variant, provider, scenario, kind, sizes[scenario], **limit)
        for kind in KINDS
        for scenario in settings.run
    ]


def scenario_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``scenarios.csv`` from the records of :func:`colport.latency.scenarios.measure`."""
    return pd.DataFrame([row for record in records for row in record["rows"]], columns=COLUMNS)


def _row(
    model: str,
    variant: str,
    provider: str,
    scenario: str,
    kind: str,
    batch_size: int,
    **figures: Any,
) -> dict[str, Any]:
    known = {
        **{"model": model, "variant": variant, "provider": provider, "scenario": scenario},
        **{"kind": kind, "batch_size": batch_size, "status": "ok", "reason": "", **figures},
    }
    if unknown := known.keys() - set(COLUMNS):
        raise KeyError(*unknown)
    return {name: known.get(name) for name in COLUMNS}


def _probe_row(contender: Contender, kind: str, run: ServerRun, probe: Probe) -> dict[str, Any]:
    bound = None
    if not probe.stopped:
        bound = upper_bound(probe.latencies_ns, PERCENTILE, run.settings.confidence)
    return make_row(
        contender,
        SERVER,
        kind,
        run.settings.max_batch,
        target_ms=run.target_ms,
        rate=probe.rate,
        per_second=len(probe.latencies_ns) / probe.seconds,
        **_percentiles(probe.latencies_ns),
        meets_target=probe.meets(run.target_ms) if probe.allowed_slow >= 0 else None,
        p99_bound_ms=None if bound is None else bound / _NS_PER_MS,
        slow=probe.slow(run.target_ms),
        allowed_slow=probe.allowed_slow,
        stopped=probe.stopped,
        mean_batch=float(np.mean(probe.batches)),
        best=False,
    )


def _encoded(calls: int, sizes: Sequence[int]) -> int:
    """Inputs of so many calls from the start of a pass on."""
    return sum(sizes[number % len(sizes)] for number in range(calls))


def _is_cut(rounds_ns: Sequence[Sequence[int]], calls: int) -> bool:
    """Whether ``max_seconds`` ended a pass of so many calls before its end."""
    return any(len(durations) % calls or not durations for durations in rounds_ns)


def _percentiles(durations_ns: Sequence[int]) -> dict[str, Any]:
    values = np.asarray(durations_ns, dtype=np.float64) / _NS_PER_MS
    figures = {f"p{p}_ms": float(np.percentile(values, p)) for p in (50, 90, 99)}
    return {**figures, "samples": int(values.size)}
