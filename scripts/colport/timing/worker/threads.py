"""A core for each computing thread of a contender, as servers pin them.

Threads that are only kept to a set of cores may share one while another idles, until the kernel
moves them: a call takes a time slice (4 ms) longer, in some blocks and not in others.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_USER_TICKS, _SYSTEM_TICKS = 11, 12  # of stat_fields


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
