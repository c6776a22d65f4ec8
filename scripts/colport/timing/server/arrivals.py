"""Requests that come when they will: arrival times, the queue before a server, and two clocks.

The loop that serves them is the same for a real encoder and for a simulated one, so that what is
known of queues can test it, and so that a simulation can say where measuring should start.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


class Clock:
    """What the serving loop needs of time, in seconds; sleeps as a server that waits does."""

    def now(self) -> float:
        """Seconds of the monotonic clock with the finest steps."""
        return time.perf_counter()

    def sleep_until(self, moment: float) -> None:
        """Give the processor away until then; returns at once where that has passed."""
        while (left := moment - time.perf_counter()) > 0:
            time.sleep(left)


class SimulatedClock(Clock):
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """The simulated time."""
        return self.time

    def sleep_until(self, moment: float) -> None:
        """Let time pass."""
        self.time = max(self.time, moment)


@dataclass(frozen=True)
class Batching:
    """How waiting requests become a call.

    Attributes:
        max_batch: Requests of one call, at most.
        max_wait_s: Seconds that a request may wait for others to come; 0 starts at once with
            whatever is there.
    """

    max_batch: int = 1
    max_wait_s: float = 0.0


@dataclass(frozen=True)
class Served:
    """What became of the requests.

    Attributes:
        latencies: Seconds from a request's scheduled arrival to the end of its call, in the order
            of arrival; shorter than the schedule where the run was given up.
        batches: Requests of each call.
        seconds: From the start to the end of the last call.
    """

    latencies: list[float]
    batches: list[int]
    seconds: float

    def slow(self, limit_s: float) -> int:
        """Requests that took longer."""
        return sum(latency > limit_s for latency in self.latencies)


def poisson_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Arrival times of a Poisson process with ``count`` arrivals in ``count / rate`` seconds.

    Given their number and the last of them, the other arrivals of such a process are uniform over
    the time before it. Without that condition 161 requests, as many as the embedded default asks
    for, come 8% (one standard deviation) faster or slower than ``rate`` says. The same seed and
    count give the same pattern at every rate, only faster or slower: contenders are compared on
    equal terms.

    Args:
        rate: Requests a second.
        count: Requests.
        seed: Of the exponential gaps.

    Returns:
        Seconds from the start, ascending; the last is ``count / rate``.
    """
    times = np.cumsum(np.random.default_rng(seed).standard_exponential(count))
    return (times * (count / rate / times[-1])).tolist()


def serve(
    arrivals: Sequence[float],
    encode: Callable[[range], object],
    clock: Clock,
    batching: Batching,
    limit_s: float = math.inf,
    allowed_slow: int = 0,
) -> Served:
    """Serve requests as they arrive, first come first served, one call at a time.

    A latency counts from the moment at which the request was due, not from that at which the busy
    loop found it: a server that falls behind cannot slow down its own load.

    Args:
        arrivals: Times from the start in seconds, ascending; drawn before.
        encode: Called with the numbers of the requests of one call.
        clock: Real or simulated.
        batching: How waiting requests become a call.
        limit_s: A request that takes longer is slow.
        allowed_slow: With more slow ones the run is decided, and ends.

    Returns:
        Latencies of all requests that were served.
    """
    latencies: list[float] = []
    batches: list[int] = []
    start, slow = clock.now(), 0
    finished = 0.0
    while len(latencies) < len(arrivals) and slow <= allowed_slow:
        first = len(latencies)
        clock.sleep_until(start + _start_of_call(arrivals, first, batching))
        waiting = bisect_right(arrivals, clock.now() - start, first) - first
        # Rounding may put the clock just before the arrival that it slept for.
        call = range(first, first + min(max(waiting, 1), batching.max_batch))
        encode(call)
        finished = clock.now() - start
        taken = [finished - arrivals[number] for number in call]
        latencies += taken
        batches.append(len(call))
        slow += sum(latency > limit_s for latency in taken)
    return Served(latencies, batches, finished)


def simulate(
    arrivals: Sequence[float],
    service_s: Callable[[int], float],
    batching: Batching,
    limit_s: float = math.inf,
    allowed_slow: int = 0,
) -> Served:
    """:func:`serve` with a call that only takes time.

    Args:
        arrivals: As in :func:`serve`.
        service_s: Seconds of a call with so many requests.
        batching: As in :func:`serve`.
        limit_s: As in :func:`serve`.
        allowed_slow: As in :func:`serve`.
    """
    clock = SimulatedClock()

    def encode(call: range) -> None:
        clock.time += service_s(len(call))

    return serve(arrivals, encode, clock, batching, limit_s, allowed_slow)


def _start_of_call(arrivals: Sequence[float], first: int, batching: Batching) -> float:
    """When a free server starts a call: its batch is full, or its first request has waited."""
    last = first + batching.max_batch - 1
    full = arrivals[last] if last < len(arrivals) else math.inf
    return min(full, arrivals[first] + batching.max_wait_s)
