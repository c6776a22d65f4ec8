"""Intervals of percentiles from samples that were taken in rounds: pure functions, no clock.

Samples of one round resemble each other, as a machine's speed drifts from round to round. Order
statistics of all samples, as if independent, would then give intervals that are too narrow; a
bootstrap over ten rounds does too, for want of rounds. So the samples are counted for what
they are worth, as survey statistics counts those of clusters, and an order-statistic interval is
taken for that number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
"""Probability with which an interval holds the percentile, at least."""


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
    from scipy.stats import t

    size, count = sum(map(len, rounds)), len(rounds)
    if count < needed_samples(0.5):
        return 0
    effect = max(_design_effect(rounds, share), _design_effect(rounds, 0.5), 1.0)
    tail = (1 + CONFIDENCE) / 2
    return int(size / effect * (t.ppf(tail, size - 1) / t.ppf(tail, count - 1)) ** 2)


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
    from scipy.stats import binom

    filled = [np.asarray(durations, dtype=np.float64) for durations in rounds if len(durations)]
    worth = effective_samples(filled, share) if filled else 0
    tail = (1 - CONFIDENCE) / 2
    # P(B < low) <= tail and P(B >= high) <= tail, for B binomial with `worth` and `share`.
    low, high = int(binom.ppf(tail, worth, share)), int(binom.ppf(1 - tail, worth, share)) + 1
    if worth == 0 or low < 1 or high > worth:
        return None, None
    values = np.concatenate(filled)
    ends = np.quantile(values, [low / (worth + 1), high / (worth + 1)], method="weibull")
    return float(ends[0]), float(ends[1])


def needed_samples(share: float) -> int:
    """Independent samples below which a percentile has no interval: 368 for a p99."""
    rarer = max(share, 1 - share)
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(rarer))
