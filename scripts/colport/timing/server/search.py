"""The highest rate that meets a latency target: where to start, where to go on, what probes say.

When a percentile is known well enough is MLPerf's early stopping criterion (MLPerf Inference Rules,
appendix "Early Stopping Criterion", and LoadGen's ``early_stopping.cc``). Of ``n`` requests, the
number that is slower than a limit is binomial. If their true share were more than
``1 - percentile``, so few slow ones as were allowed would be seen with a probability below
``1 - confidence``. At the 99th percentile and a confidence of 99% the smallest run has 459
requests, none of them slow.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from colport.timing.server.arrivals import Batching, poisson_arrivals, simulate
from colport.timing.server.settings import ServerSettings

PERCENTILE = 0.99

_OVERLOADED = 2.0
"""Times the target by which an overload of the resolution falls behind within a probe.

In simulated searches of the embedded default, highest rates come out 11% too high on average with
1, 2 to 4% with 2, and 1% too low with 3.
"""

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
            search.record(rate, enough and served.slow(limit_s) <= allowed)
        return search.passed

    found = highest(spread) or highest([one for one in spread if one <= slowest / median])
    return min(found, capacity) if found else NEVER


def allowed_slow(requests: int, confidence: float) -> int:
    """How many requests may be slower than a limit that the p99 is said to meet.

    Args:
        requests: Requests in all.
        confidence: Between 0 and 1.

    Returns:
        The number; -1 where so few requests prove nothing.
    """
    from scipy.stats import binom

    # The first number of slow ones whose probability, all smaller ones included, is too large.
    return int(binom.ppf(1.0 - confidence, requests, 1.0 - PERCENTILE)) - 1


def needed_requests(confidence: float) -> int:
    """The smallest run that proves something if none is slow; see :func:`allowed_slow`."""
    requests = math.ceil(math.log(1.0 - confidence) / math.log(PERCENTILE))
    return requests + (allowed_slow(requests, confidence) < 0)  # an exact power needs one more


def upper_bound(latencies: Sequence[float], confidence: float) -> float | None:
    """The smallest limit that the latencies' p99 is known to meet.

    Args:
        latencies: Those of all requests, in any unit and order.
        confidence: Between 0 and 1.

    Returns:
        One of the latencies; ``None`` where they are too few.
    """
    allowed = allowed_slow(len(latencies), confidence)
    return None if allowed < 0 else sorted(latencies)[len(latencies) - 1 - allowed]


@dataclass(frozen=True)
class Probe:
    """One run of a server at one rate.

    Attributes:
        rate: Requests a second that were offered.
        requests: Requests that were planned.
        allowed_slow: How many of them may miss the target.
        latencies_ns: From scheduled arrival to completion; fewer than planned where the run was
            given up.
        batches: Requests of each call.
        seconds: From the start to the last completion.
    """

    rate: float
    requests: int
    allowed_slow: int
    latencies_ns: Sequence[int]
    batches: Sequence[int]
    seconds: float

    def slow(self, target_ms: float) -> int:
        """Requests that missed the target."""
        return sum(latency > target_ms * 1e6 for latency in self.latencies_ns)

    def meets(self, target_ms: float) -> bool:
        """Whether the percentile is known to lie within the target."""
        return not self.stopped and self.slow(target_ms) <= self.allowed_slow

    @property
    def stopped(self) -> bool:
        """Whether it was given up: too many requests had missed the target."""
        return len(self.latencies_ns) < self.requests


def plan_probe(rate: float, target_ms: float, settings: ServerSettings) -> tuple[int, int] | None:
    """Requests of a probe and how many may be slow; ``None`` where it would last too long.

    A server that gets a share ``r`` more than it can do falls behind by ``r`` seconds a second: it
    takes the target over ``r`` seconds until the last requests miss it, however fast requests
    come, and as long again until that is more than chance.

    Args:
        rate: Requests a second.
        target_ms: The latency target.
        settings: Confidence and resolution, and the bounds of a probe.
    """
    least = needed_requests(settings.confidence)
    seconds = max(settings.min_seconds, _OVERLOADED * target_ms / 1e3 / settings.resolution)
    if max(seconds, least / rate) > settings.max_seconds:
        return None
    requests = max(least, math.ceil(rate * seconds))
    return requests, allowed_slow(requests, settings.confidence)


def plan_given(rate: float, target_ms: float, settings: ServerSettings) -> tuple[int, int]:
    """The same for a rate that is measured in any case; few requests may prove nothing (-1)."""
    planned = plan_probe(rate, target_ms, settings)
    if planned is not None:
        return planned
    requests = max(1, math.floor(rate * settings.max_seconds))
    return requests, allowed_slow(requests, settings.confidence)


@dataclass
class ServerRun:
    """A contender's server for one kind of input.

    Attributes:
        target_ms: The latency target.
        search: Where the highest rate is looked for.
        settings: How long probes are.
        given: Probes of given rates.
        probes: Those of the search.
    """

    target_ms: float
    search: RateSearch
    settings: ServerSettings
    given: list[Probe] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The rate to try next; ``None`` at the end, or where a probe would last too long."""
        rate = self.search.next_rate()
        return None if rate is None or self.plan(rate) is None else rate

    def plan(self, rate: float) -> tuple[int, int] | None:
        """See :func:`plan_probe`."""
        return plan_probe(rate, self.target_ms, self.settings)

    def record(self, probe: Probe) -> None:
        """Take note of a probe that the search asked for."""
        self.probes.append(probe)
        self.search.record(probe.rate, probe.meets(self.target_ms))

    def best(self) -> Probe | None:
        """The probe that stands for the scenario: the fastest that passed, else the slowest."""
        if not self.probes:
            return None
        if self.search.passed is None:
            return min(self.probes, key=lambda probe: probe.rate)
        return next(p for p in reversed(self.probes) if p.rate == self.search.passed)

    def remark(self) -> str:
        """What the reader must know about an end without an answer; empty if there is one."""
        if self.search.is_resolved:
            return ""
        tried = self.search.next_rate()
        if self.search.passed is None:
            if tried is not None and tried <= NEVER:
                return "no rate meets the target: its calls alone take longer"
            lowest = self.search.failed
            found = "no probe was made" if lowest is None else f"{lowest:.4g} a second missed it"
            ending = "max_probes is used up"
            if tried is not None and self.plan(tried) is None:
                ending = f"at {tried:.4g} a second one would take longer than max_seconds"
            return f"no rate is known to meet the target: {found}; {ending}"
        if self.search.failed is None:
            return "the highest rate may be higher: no rate that was tried missed the target"
        return "the highest rate is not resolved: max_probes is used up"
