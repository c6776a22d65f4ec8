"""The highest rate that meets a latency target: where to measure next, and where to start."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from colport.timing.server.arrivals import Batching, poisson_arrivals, simulate

_SIMULATED_RESOLUTION = 0.02
_SIMULATED_PROBES = 40
_CALM = 0.95
"""Share of single calls that count where all of them let no rate pass: one slow moment of the
machine rules none out untried."""
_IDLE = 1e-3
"""Share of the capacity at which no request waits for another."""
NEVER = 1e-9
"""Requests a second, predicted where calls alone take longer than the target."""


class RateSearch:
    """Brackets the highest rate that passes, then halves the bracket on a logarithmic scale.

    Steps away from the guess start with the resolution and double (in the logarithm): a good guess
    is confirmed with two probes, a bad one costs a few more.

    Args:
        guess: The first rate to try.
        resolution: Ends when the lowest rate that failed is above the highest that passed by no
            more than this share.
        max_probes: Ends after so many in any case.

    Attributes:
        passed: The highest rate that passed; ``None`` while none did.
        failed: The lowest rate that failed; ``None`` while none did.
    """

    def __init__(self, guess: float, resolution: float, max_probes: int) -> None:
        self.passed: float | None = None
        self.failed: float | None = None
        self._next = guess
        self._step = 1.0 + resolution
        self._resolution = resolution
        self._left = max_probes

    def next_rate(self) -> float | None:
        """The rate to try next, or ``None`` at the end."""
        return self._next if self._left > 0 and not self.is_resolved else None

    @property
    def is_resolved(self) -> bool:
        """Whether the bracket is as narrow as asked for."""
        if self.passed is None or self.failed is None:
            return False
        # A failure below a success, by chance: there is nothing left between them.
        return self.failed <= self.passed * (1.0 + self._resolution) * (1 + 1e-9)

    def record(self, rate: float, passed: bool) -> None:
        """Take note of a probe, and choose the next rate."""
        self._left -= 1
        if passed:
            self.passed = max(rate, self.passed or 0.0)
        else:
            self.failed = min(rate, self.failed or math.inf)
        if self.passed is None:
            self._next = self.failed / self._step
        elif self.failed is None:
            self._next = self.passed * self._step
        else:
            self._next = math.sqrt(self.passed * self.failed)
        self._step *= self._step


def predict_highest_rate(
    service: Mapping[int, float],
    singles: Sequence[float],
    limit_s: float,
    allowed_slow: Callable[[float], tuple[int, int]],
    batching: Batching,
    seed: int,
) -> float:
    """The rate that a simulated server of these service times sustains: a guess to start from.

    Args:
        service: Seconds of a call by number of requests, 1 and the largest batch among them;
            those between are interpolated.
        singles: Seconds of calls with one request; their spread is that of every call.
        limit_s: The latency target.
        allowed_slow: From a rate to the requests of a probe and how many of them may be slow.
        batching: How waiting requests become a call.
        seed: Of the arrivals that the probes will have.

    Returns:
        Requests a second; :data:`NEVER` where no rate meets the target.
    """
    sizes = sorted(service)
    seconds = np.interp(range(1, sizes[-1] + 1), sizes, [service[size] for size in sizes]).tolist()
    median, slowest = np.quantile(singles, (0.5, _CALM)).tolist()
    spread = [single / median for single in singles]
    random.Random(seed).shuffle(spread)
    capacity = max(size / taken for size, taken in enumerate(seconds, start=1))

    def highest(spread: Sequence[float]) -> float | None:
        search = RateSearch(capacity / 2, _SIMULATED_RESOLUTION, _SIMULATED_PROBES)
        # Beyond its capacity a server passes only while its probes are too short to show it.
        while (rate := search.next_rate()) is not None and _IDLE < rate / capacity < 2:
            factors = itertools.cycle(spread)
            requests, allowed = allowed_slow(rate)
            served = simulate(
                poisson_arrivals(rate, requests, seed),
                lambda size, factors=factors: seconds[size - 1] * next(factors),
                batching,
                limit_s,
                allowed,
            )
            enough = len(served.latencies) == requests
            search.record(rate, enough and _slow(served, limit_s) <= allowed)
        return search.passed

    found = highest(spread) or highest([one for one in spread if one <= slowest / median])
    return min(found, capacity) if found else NEVER


def _slow(served, limit_s: float) -> int:
    return sum(latency > limit_s for latency in served.latencies)
