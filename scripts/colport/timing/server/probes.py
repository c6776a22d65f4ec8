"""Probes of a server: how long one is, whether it met its target, and what all of them say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from colport.timing.server.early_stopping import allowed_slow, needed_requests
from colport.timing.server.search import NEVER, RateSearch
from colport.timing.server.settings import ServerSettings

PERCENTILE = 0.99

_OVERLOADED = 2.0
"""Times the target by which an overload of the resolution falls behind within a probe.

In simulated searches of the embedded default, highest rates come out 11% too high on average with
1, 2 to 4% with 2, and 1% too low with 3.
"""


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
    least = needed_requests(0, PERCENTILE, settings.confidence)
    seconds = max(settings.min_seconds, _OVERLOADED * target_ms / 1e3 / settings.resolution)
    if max(seconds, least / rate) > settings.max_seconds:
        return None
    requests = max(least, math.ceil(rate * seconds))
    return requests, allowed_slow(requests, PERCENTILE, settings.confidence)


def plan_given(rate: float, target_ms: float, settings: ServerSettings) -> tuple[int, int]:
    """The same for a rate that is measured in any case; few requests may prove nothing (-1)."""
    planned = plan_probe(rate, target_ms, settings)
    if planned is not None:
        return planned
    requests = max(1, math.floor(rate * settings.max_seconds))
    return requests, allowed_slow(requests, PERCENTILE, settings.confidence)


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
        too_long = tried is not None and self.plan(tried) is None
        if self.search.passed is None:
            if tried is not None and tried <= NEVER:
                return "no rate meets the target: its calls alone take longer"
            lowest = self.search.failed
            found = "no probe was made" if lowest is None else f"{lowest:.4g} a second missed it"
            ending = (
                f"; at {tried:.4g} a second one would take longer than max_seconds"
                if too_long
                else "; max_probes is used up"
            )
            return f"no rate is known to meet the target: {found}{ending}"
        if self.search.failed is None:
            return "the highest rate may be higher: no rate that was tried missed the target"
        return "the highest rate is not resolved: max_probes is used up"
