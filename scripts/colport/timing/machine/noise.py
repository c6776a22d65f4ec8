"""Was the machine ours alone? Load before, and what others took of the CPU meanwhile."""

from __future__ import annotations

import operator
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from colport.base.machine import said

MAX_STEAL = 0.02
"""Share of CPU time that a hypervisor may give to other guests before a run counts as noisy."""

MAX_OTHERS = 0.05
"""Share of CPU time that other processes may take before a run counts as noisy."""

MAX_EXTRA_LOAD = 1.0
"""By how much the one-minute load average may exceed the cores before the run.

It still holds what ran a minute ago, such as the pipeline's own jobs: it counts only where the
system does not tell what others took during the run.
"""

MAX_BURST = 0.10
"""Share of CPU time in use, with every contender idle, up to which a turn may start."""

_WINDOW_SECONDS = 0.1


class CpuTimes(NamedTuple):
    """CPU seconds of the whole machine since its start, and those of this process.

    Attributes:
        busy: Seconds that some process or the kernel ran.
        idle: Seconds without work, waiting for disks included.
        steal: Seconds that the hypervisor gave to other guests.
        own: Seconds of this process and of the children that it has waited for.
        throttled: Seconds that the control group's CPU limit stopped it.
    """

    busy: float
    idle: float
    steal: float
    own: float
    throttled: float

    def __sub__(self, other: CpuTimes) -> CpuTimes:
        return CpuTimes(*map(operator.sub, self, other))

    @property
    def total(self) -> float:
        """CPU seconds that the machine had to give."""
        return self.busy + self.idle + self.steal


def read_cpu_times(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> CpuTimes:
    """Read the counters now; all are 0 where the system has no ``/proc/stat``."""
    _, *values = said(proc / "stat").partition("\n")[0].split() or [""]
    if not values:
        return CpuTimes(*[0.0] * 5)
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, waiting, irq, softirq, steal = (
        int(value) / tick for value in (*values, *["0"] * 8)[:8]
    )
    own = os.times()
    return CpuTimes(
        busy=user + nice + system + irq + softirq,
        idle=idle + waiting,
        steal=steal,
        own=own.user + own.system + own.children_user + own.children_system,
        throttled=_throttled_seconds(cgroup),
    )


def load_average() -> float | None:
    """One-minute load average; ``None`` where the system has none."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def wait_for_quiet(
    seconds: float,
    read: Callable[[], CpuTimes] = read_cpu_times,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Let a burst of other work pass; called only between turns, never because of a sample.

    Args:
        seconds: Wait no longer than this.
        read: Where the counters come from.
        sleep: How to let time pass.

    Returns:
        Seconds for which the machine was found busy, in steps of a tenth.
    """
    windows = int(seconds / _WINDOW_SECONDS + 0.5)
    for busy_windows in range(windows):
        before = read()
        sleep(_WINDOW_SECONDS)
        if _share_in_use(read() - before) <= MAX_BURST:
            return busy_windows * _WINDOW_SECONDS
    return windows * _WINDOW_SECONDS


class Watch:
    """Watches the machine during one run.

    Args:
        cores: Cores that this process may use.
        quiet_wait_s: Seconds that :meth:`wait_for_quiet` may take in all.
    """

    def __init__(self, cores: int, quiet_wait_s: float) -> None:
        self._cores = cores
        self._budget = quiet_wait_s
        self._waited = 0.0
        self._load_before = load_average()
        self._start = read_cpu_times()

    def wait_for_quiet(self) -> None:
        """Let a burst of other work pass; what happens meanwhile does not count as noise."""
        before = read_cpu_times()
        self._waited += wait_for_quiet(self._budget - self._waited)
        self._start -= before - read_cpu_times()

    def record(self) -> dict[str, Any]:
        """The noise record (:func:`describe`) since the start, waiting left out.

        Call it once the workers have been waited for: only then is their time known as ours.
        """
        spent = read_cpu_times() - self._start
        return {**describe(self._load_before, self._cores, spent), "waited_seconds": self._waited}


def describe(load_before: float | None, cores: int, spent: CpuTimes) -> dict[str, Any]:
    """What was noisy.

    Args:
        load_before: One-minute load average before the first worker started.
        cores: Cores that this process may use.
        spent: By how much the counters grew; not at all where the system has none.

    Returns:
        ``noisy``, ``reasons`` (sentences), ``load_before``, the shares from 0 to 1
        ``steal_share`` and ``others_share``, and ``throttled_seconds`` (``None`` where unknown).
    """
    steal = others = throttled = None
    reasons = []
    if spent.total > 0:
        throttled = spent.throttled
        steal = max(0.0, spent.steal) / spent.total
        others = max(0.0, spent.busy - spent.own) / spent.total
    elif load_before is not None and load_before > cores + MAX_EXTRA_LOAD:
        reasons.append(f"the load average was {load_before:.1f} on {cores} cores before the run")
    if steal is not None and steal > MAX_STEAL:
        reasons.append(f"the hypervisor gave {steal:.1%} of the CPU time to other guests")
    if others is not None and others > MAX_OTHERS:
        reasons.append(f"other processes took {others:.1%} of the CPU time")
    if throttled:
        reasons.append(f"the CPU limit of the container stopped it for {throttled:.2f} s")
    return {
        "noisy": bool(reasons),
        "reasons": reasons,
        "load_before": load_before,
        "steal_share": steal,
        "others_share": others,
        "throttled_seconds": throttled,
    }


def _share_in_use(spent: CpuTimes) -> float:
    return (spent.busy + spent.steal) / spent.total if spent.total > 0 else 0.0


def _throttled_seconds(cgroup: Path) -> float:
    found = re.search(r"^throttled_usec (\d+)$", said(cgroup / "cpu.stat"), re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0
