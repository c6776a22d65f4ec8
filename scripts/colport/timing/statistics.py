"""From raw durations to the rows of ``latency.csv``: pure functions, no clock.

Samples of one round resemble each other, as a machine's speed drifts from round to round. Order
statistics of all samples, as if independent, would then give intervals that are too narrow; a
bootstrap over ten rounds does too, for want of rounds. So the samples are counted for what
they are worth, as survey statistics counts those of clusters, and an order-statistic interval is
taken for that number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from colport.base import columns
from colport.base.names import REFERENCE_VARIANT
from colport.timing.settings import Case

PERCENTILES = (50, 90, 95, 99)
NS_PER_MS, NS_PER_S = 1e6, 1e9

CONFIDENCE = 0.95
"""Probability with which an interval holds the percentile, at least."""


def summarize(durations_ns: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Figures of one case from all its samples, outliers included.

    Percentiles interpolate linearly between samples (NumPy's default). With few samples the
    high ones lie close to the maximum: read them beside ``samples``.

    Args:
        durations_ns: Durations of whole calls, in nanoseconds; at least one.
        batch_size: Inputs a call.

    Returns:
        ``p50_ms`` … ``p99_ms``, ``mean_ms``, ``min_ms``, ``max_ms`` in milliseconds, ``samples``,
        and ``per_second``: inputs a second at the mean duration.
    """
    values = np.asarray(durations_ns, dtype=np.float64) / NS_PER_MS
    mean = float(values.mean())
    return {
        **{f"p{p}_ms": float(np.percentile(values, p)) for p in PERCENTILES},
        "mean_ms": mean,
        "min_ms": float(values.min()),
        "max_ms": float(values.max()),
        "samples": int(values.size),
        "per_second": batch_size * 1000.0 / mean,
    }


def encoded(calls: int, sizes: Sequence[int]) -> int:
    """Inputs of so many calls, which have so many inputs each and then start again."""
    return sum(sizes[number % len(sizes)] for number in range(calls))


def intervals(rounds_ns: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """``p50_low_ms``, ``p50_high_ms`` … ``p99_high_ms``; ``None`` where the samples are too few.

    Args:
        rounds_ns: Durations of whole calls, one sequence a round, in nanoseconds.
    """
    figures = {}
    for percentile in PERCENTILES:
        ends = percentile_interval(rounds_ns, percentile / 100)
        for name, value in zip(("low", "high"), ends, strict=True):
            figures[f"p{percentile}_{name}_ms"] = None if value is None else value / NS_PER_MS
    return figures


def effective_samples(rounds: Sequence[np.ndarray], share: float) -> int:
    """How many independent samples the rounds are worth for one percentile.

    The variance of the share of samples below a percentile, estimated from the rounds, over that
    of independent samples is the design effect; the samples divided by it, and by the square of
    the ratio of Student's t for the rounds to that for the samples, are the effective number (Korn
    and Graubard, Survey Methodology 24, 1998, section 2). The larger effect of the percentile and
    of the median counts: the tail of a few rounds says little about their drift.

    Args:
        rounds: Durations ``[samples]`` of each round, none empty.
        share: The percentile, from 0 to 1.

    Returns:
        At most the samples; 0 for fewer than six rounds, whose own medians hold the median with
        less than 95%.
    """
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    size, count = sum(map(len, rounds)), len(rounds)
    if count < needed_samples(0.5):
        return 0
    effect = max(_design_effect(rounds, share), _design_effect(rounds, 0.5), 1.0)
    tail = (1 + CONFIDENCE) / 2
    return int(size / effect * (stdtrit(size - 1, tail) / stdtrit(count - 1, tail)) ** 2)


def _design_effect(rounds: Sequence[np.ndarray], share: float) -> float:
    values, count = np.concatenate(rounds), len(rounds)
    limit = np.quantile(values, share)
    sizes = np.array([len(durations) for durations in rounds])
    below = np.array([np.mean(durations <= limit) for durations in rounds])
    overall = float(np.average(below, weights=sizes))
    if overall == 1:  # all durations alike
        return 1.0
    variance = count / (count - 1) * np.sum((sizes * (below - overall)) ** 2) / values.size**2
    return float(variance / (overall * (1 - overall) / values.size))


def percentile_interval(
    rounds: Sequence[Sequence[float]], share: float
) -> tuple[float | None, float | None]:
    """Distribution-free interval that holds a percentile with a probability of 95% or more.

    Of ``n`` independent samples, the ``k``-th and ``m``-th smallest hold it with a probability
    that the binomial distribution gives (David and Nagaraja, Order Statistics, 2003, section 7.1);
    ``n`` is :func:`effective_samples`, and the ranks are those places among all samples
    (Woodruff, Journal of the American Statistical Association 47, 1952, for clusters).

    Args:
        rounds: Durations of each round, in any unit; a round may be empty.
        share: The percentile, from 0 to 1.

    Returns:
        Both ends, or ``None`` twice where the samples are too few: :func:`needed_samples`.
    """
    from scipy.special import bdtr

    filled = [np.asarray(durations, dtype=np.float64) for durations in rounds if len(durations)]
    worth = effective_samples(filled, share) if filled else 0
    tail = (1 - CONFIDENCE) / 2
    # P(B < low) <= tail and P(B >= high) <= tail, for B binomial with `worth` and `share`.
    below = bdtr(np.arange(worth + 1), worth, share)
    low, high = np.add(np.searchsorted(below, [tail, 1 - tail]), (0, 1))
    if worth == 0 or low < 1 or high > worth:
        return None, None
    values = np.concatenate(filled)
    ends = np.quantile(values, [low / (worth + 1), high / (worth + 1)], method="weibull")
    return float(ends[0]), float(ends[1])


def needed_samples(share: float) -> int:
    """Independent samples below which a percentile has no interval: 368 for a p99."""
    rarer = max(share, 1 - share)
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(rarer))


def round_ratios(reference: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> list[float]:
    """The reference's median over the other's (above 1: faster than it), a ratio a round.

    Args:
        reference: The reference's durations, one sequence a round.
        other: Those of another contender in the same rounds.

    Returns:
        A ratio for each round in which both have samples.
    """
    medians = (
        [float(np.median(taken)) if len(taken) else None for taken in rounds]
        for rounds in (reference, other)
    )
    return cost_ratios(*medians)


def cost_ratios(reference: Sequence[float | None], other: Sequence[float | None]) -> list[float]:
    """The reference's cost over another contender's, for each round that both have.

    Args:
        reference: A figure a round, of which less is better; ``None`` where there is none.
        other: Another contender's in the same rounds.
    """
    pairs = zip(reference, other, strict=True)
    return [theirs / ours for theirs, ours in pairs if theirs is not None and ours is not None]


def compare_rounds(
    reference: Sequence[Sequence[int]], other: Sequence[Sequence[int]]
) -> dict[str, float | None]:
    """Speed-ups of single rounds: their middle, and how much a ratio moves within one run.

    Both were timed at the same time in a round, so that a machine whose speed drifts from round to
    round moves the ratio of all medians, but not these.

    Args:
        reference: See :func:`round_ratios`.
        other: See there.

    Returns:
        ``speedup_vs_pytorch``, ``speedup_low`` and ``speedup_high``: median, minimum and maximum
        of the ratios; ``None`` where there is no round in which both have samples.
    """
    ratios = round_ratios(reference, other)
    found = (float(np.median(ratios)), min(ratios), max(ratios)) if ratios else (None,) * 3
    return dict(zip(("speedup_vs_pytorch", "speedup_low", "speedup_high"), found, strict=True))


def make_row(model: str, variant: str, provider: str, case: Case, **figures: Any) -> dict[str, Any]:
    """The row of one case; see :func:`colport.base.columns.row`.

    Raises:
        KeyError: A figure is not a column.
    """
    names = {"model": model, "variant": variant, "provider": provider, **dataclasses.asdict(case)}
    return columns.row(case.table, **names, **figures)


def add_speedups(rows: Sequence[dict[str, Any]], rounds: Sequence[Sequence[Sequence[int]]]) -> None:
    """Fill in the speed-up columns of rows of one model, in place.

    See :func:`compare_rounds`; the reference has the same kind and batch size. Without one that
    ran, the columns stay ``None``.

    Args:
        rows: Rows of :func:`make_row`, the reference's among them.
        rounds: The durations behind each row, one sequence a round.
    """
    for row, durations, reference in _beside_reference(rows, rounds):
        row.update(compare_rounds(reference, durations))


def add_cosines(rows: Sequence[dict[str, Any]], outputs: Sequence[Sequence[np.ndarray]]) -> None:
    """Fill in how close each row's embeddings are to the reference's, in place.

    Args:
        rows: Rows of :func:`make_row`, the reference's among them.
        outputs: Embeddings ``[tokens, dim]`` of the inputs behind each row; empty where it failed.
    """
    for row, embeddings, expected in _beside_reference(rows, outputs):
        shapes = [[array.shape for array in arrays] for arrays in (expected, embeddings)]
        is_real = all(np.issubdtype(array.dtype, np.floating) for array in embeddings)
        if embeddings and is_real and shapes[0] == shapes[1]:
            ours, theirs = (
                np.concatenate(arrays).astype(np.float64) for arrays in (embeddings, expected)
            )
            norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            cosines = np.sum(ours * theirs, axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
            row["mean_cosine"], row["min_cosine"] = float(cosines.mean()), float(cosines.min())


def add_token_times(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in ``token_ms`` and ``tokens_per_second`` of rows of captions, in place.

    Args:
        rows: Rows of :func:`make_row`, those of the first token among them.
    """
    first = {
        (row["variant"], row["provider"], row["batch_size"]): row["p50_ms"]
        for row in rows
        if row["kind"] == "first_token"
    }
    for row in rows:
        if row["kind"] == "caption" and row["status"] == "ok":
            tokens, p50_ms = row["tokens"], row["p50_ms"]
            row["tokens_per_second"] = row["batch_size"] * tokens * 1000 / p50_ms
            begun = first.get((row["variant"], row["provider"], row["batch_size"]))
            if begun is not None and tokens > 1:
                row["token_ms"] = (p50_ms - begun) / (tokens - 1)


def _beside_reference(
    rows: Sequence[dict[str, Any]], found: Sequence[Any]
) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Each row that was measured, what is behind it, and what is behind the reference's row."""
    references: dict[tuple[str, int], Any] = {}
    measured = [pair for pair in zip(rows, found, strict=True) if pair[0]["status"] == "ok"]
    for row, own in measured:
        if row["variant"] == REFERENCE_VARIANT:
            references[row["kind"], row["batch_size"]] = own
    for row, own in measured:
        if (row["kind"], row["batch_size"]) in references:
            yield row, own, references[row["kind"], row["batch_size"]]


def median_ms(durations_ns: Sequence[int]) -> float | None:
    """The median in milliseconds; ``None`` without durations."""
    return float(np.median(durations_ns)) / NS_PER_MS if len(durations_ns) else None
