"""When a percentile is known well enough: MLPerf's early stopping criterion.

Source: MLPerf Inference Rules, appendix "Early Stopping Criterion", and LoadGen's
``early_stopping.cc``. Of ``n`` requests, the number that is slower than a limit is binomial. If
their true share were more than ``1 - percentile``, so few slow ones as were allowed would be seen
with a probability below ``1 - confidence``. At the 99th percentile and a confidence of 99% the
smallest run has 459 requests, none of them slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from colport.base.errors import ConfigError

CONFIDENCE = 0.99
"""MLPerf's own."""


def allowed_slow(requests: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """How many requests may be slower than a limit that the percentile is said to meet.

    Args:
        requests: Requests in all.
        percentile: Between 0 and 1, as 0.99.
        confidence: Between 0 and 1.

    Returns:
        The number; -1 where so few requests prove nothing.
    """
    from scipy.stats import binom

    _check(percentile, confidence)
    if requests < 1:
        return -1
    # The first number of slow ones whose probability, all smaller ones included, is too large.
    return int(binom.ppf(1.0 - confidence, requests, 1.0 - percentile)) - 1


def needed_requests(allowed: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """The smallest run in which ``allowed`` requests may be slow; see :func:`allowed_slow`."""
    _check(percentile, confidence)
    few = math.ceil(math.log(1.0 - confidence) / math.log(percentile)) - 1
    many = max(1, few)
    while allowed_slow(many, percentile, confidence) < allowed:
        few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        if allowed_slow(middle, percentile, confidence) < allowed:
            few = middle
        else:
            many = middle
    return many


def upper_bound(
    latencies: Sequence[float], percentile: float, confidence: float = CONFIDENCE
) -> float | None:
    """The smallest limit that the latencies' percentile is known to meet.

    Args:
        latencies: Those of all requests, in any unit and order.
        percentile: Between 0 and 1.
        confidence: Between 0 and 1.

    Returns:
        One of the latencies; ``None`` where they are too few.
    """
    allowed = allowed_slow(len(latencies), percentile, confidence)
    return None if allowed < 0 else sorted(latencies)[len(latencies) - 1 - allowed]


def _check(percentile: float, confidence: float) -> None:
    for name, value in (("percentile", percentile), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name}: found {value}; expected a number between 0 and 1.")
