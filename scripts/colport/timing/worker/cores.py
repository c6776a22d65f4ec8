"""Which cores a contender runs on, the same ones for all, and which of its threads on which.

A core for each computing thread, as servers pin them: threads that are only kept to a set of cores
may share one while another idles, until the kernel moves them. A call then takes a time slice
(4 ms) longer, in some blocks and not in others.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from colport.base.errors import ConfigError
from colport.base.machine import said

_CPUS = Path("/sys/devices/system/cpu")
_TASKS = Path("/proc/self/task")
_USER_TICKS, _SYSTEM_TICKS = 11, 12  # of stat_fields


def choose(
    affinity: bool | Sequence[int], threads: int, usable: Iterable[int], cpus: Path = _CPUS
) -> tuple[int, ...] | None:
    """The logical cores that every contender of a run is pinned to.

    Args:
        affinity: ``True``: as many physical cores as threads, a logical core each; all usable ones
            where there are fewer. ``False``: not pinned. Numbers: just these.
        threads: Threads of a contender.
        usable: Logical cores that this process may use (its cgroup's and ``taskset``'s limits).
        cpus: Where Linux describes them.

    Returns:
        Their numbers in order, or ``None`` where nothing is pinned.

    Raises:
        ConfigError: A core was named that this process may not use.
    """
    allowed = sorted(usable)
    if affinity is False or not allowed:
        return None
    if affinity is not True:
        foreign = sorted(set(affinity) - set(allowed))
        if foreign:
            raise ConfigError(f"affinity: cores {foreign} cannot be used; allowed are {allowed}.")
        return tuple(sorted(affinity))
    physical: dict[str, int] = {}
    for number in allowed:
        physical.setdefault(_siblings(number, cpus), number)
    chosen = tuple(physical.values())[:threads]
    return chosen if len(chosen) == threads else tuple(allowed)


def usable() -> set[int]:
    """Logical cores that this process may use; empty where the system cannot pin."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _siblings(number: int, cpus: Path) -> str:
    """The logical cores of a core's physical one, as Linux lists them; itself where it does not."""
    return said(cpus / f"cpu{number}/topology/thread_siblings_list").strip() or str(number)


def place(cores: Collection[int]) -> None:
    """Give each of the busiest threads of this process a core of its own.

    The main thread has the first core, the threads with the most CPU time so far the others, and
    all further ones may run on any. Does nothing where the system cannot pin threads.

    Args:
        cores: Logical cores of the process.
    """
    if can_place():
        _pin(assign(_cpu_ticks(), os.getpid(), sorted(cores)), cores)


def release(cores: Collection[int]) -> None:
    """Let each thread run on any of the cores; those that it starts would inherit a single one."""
    if can_place():
        _pin(dict.fromkeys(_cpu_ticks()), cores)


def can_place() -> bool:
    """Whether the system lists and pins threads."""
    return _TASKS.is_dir() and hasattr(os, "sched_setaffinity")


def stat_fields(stat: Path) -> list[str]:
    """Fields of proc(5)'s stat behind the name, which may itself hold blanks and parentheses."""
    return stat.read_text().rpartition(")")[2].split()


def assign(ticks: Mapping[int, int], main: int, cores: Collection[int]) -> dict[int, int | None]:
    """The core of each thread, ``None`` for any.

    Args:
        ticks: Thread to the CPU time that it has taken; those without any are not computing.
        main: The thread that calls the contender.
        cores: Logical cores in order.
    """
    busy = sorted((thread for thread in ticks if ticks[thread]), key=lambda t: (-ticks[t], t))
    pinned = [main, *(thread for thread in busy if thread != main)][: len(cores)]
    return {**dict.fromkeys(ticks), **dict(zip(pinned, cores, strict=False))}


def _pin(chosen: Mapping[int, int | None], cores: Collection[int]) -> None:
    for thread, core in chosen.items():
        with suppress(OSError):  # it may have ended
            os.sched_setaffinity(thread, cores if core is None else {core})


def _cpu_ticks() -> dict[int, int]:
    found = {}
    for task in _TASKS.iterdir():
        with suppress(OSError):
            fields = stat_fields(task / "stat")
            found[int(task.name)] = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    return found
