"""Which cores a contender runs on: the same ones for all, one thread a physical core."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from colport.base.errors import ConfigError

_CPUS = Path("/sys/devices/system/cpu")


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
    try:
        return (cpus / f"cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)
