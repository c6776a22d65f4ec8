"""What a figure was measured with: versions, processor, memory and threads."""

from __future__ import annotations

import math
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from colport.base.foreign import table_beside

_FACTS = table_beside(__file__)
PACKAGES, INSTRUCTIONS = _FACTS["packages"], _FACTS["instructions"]

_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def describe() -> dict[str, Any]:
    """The environment of this process, as stored in every result.

    Returns:
        ``packages`` (name to version, installed ones only), ``python``, ``platform``, ``cpu``,
        ``instructions`` (values of :data:`INSTRUCTIONS`, none where the system does not tell),
        ``cores`` (usable by this process), ``caches`` (of a core: name to its size as Linux writes
        it), ``memory_mb``, ``gpu`` (a name or ``None``) and ``commit`` (of this checkout).
    """
    return {
        "packages": packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _told(_CPUINFO, "model name") or platform.processor() or platform.machine(),
        "instructions": instructions(),
        "cores": usable_cores(),
        "caches": _caches(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "gpu": _gpu_name(),
        "commit": commit(),
    }


def instructions() -> list[str]:
    """Those of :data:`INSTRUCTIONS` that this processor has, the weakest first."""
    has = {flag for name in ("flags", "Features") for flag in _told(_CPUINFO, name).split()}
    return [name for flag, name in INSTRUCTIONS.items() if flag in has]


def processor_class(described: Mapping[str, Any]) -> str:
    """The strongest of the instructions in a result's environment; empty where they are unknown."""
    return (described.get("instructions") or [""])[-1]


def in_words(described: Mapping[str, Any]) -> str:
    """Processor with its class, cores and GPU of a result's environment, in one phrase."""
    cpu, cores = described.get("cpu"), described.get("cores")
    strongest = processor_class(described)
    parts = (
        f"{cpu} with {strongest}" if cpu and strongest else cpu,
        f"{cores} core{'' if cores == 1 else 's'}" if cores else None,
        described.get("gpu"),
    )
    return ", ".join(str(part) for part in parts if part)


@cache
def commit() -> str | None:
    """The commit of this checkout, ``-dirty`` behind it where files differ; ``None`` outside."""
    root = Path(__file__).parents[3]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    # An installed package may lie inside another project's checkout.
    with suppress(OSError):
        if (root / ".git").exists():
            return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    return None


@cache
def packages() -> dict[str, str]:
    """Versions of those of :data:`PACKAGES` that are installed here."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def usable_cores() -> int:
    """Cores that this process may run on, or whose time its control groups leave it."""
    has = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1
    return min([cores, *_cores_of_groups()])


def asked_threads() -> int | None:
    """``OMP_NUM_THREADS``, by which jobs and containers tell libraries how many threads to take.

    ONNX Runtime does not read it: without it, jobs beside each other compute on all cores each.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) or None if asked.isdecimal() else None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    Linux's ``VmHWM``: ``ru_maxrss`` of a started program includes its parent's peak.
    """
    if told := _told(_STATUS, "VmHWM"):
        return int(told.split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def available_mb() -> float:
    """Memory that this process may still take, in MB (10**6 bytes).

    The least of what the machine has available, what each control group above the process leaves
    (its limit without what its processes hold; the page cache is given back when it is needed), and
    the process's own limit. Elsewhere than on Linux all that the machine has.
    """
    told = _told(_MEMINFO, "MemAvailable")
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [int(told.split()[0]) * 2**10 if told else pages]
    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        if (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
            found.append(most)
    return min(*found, *_left_in_groups()) / 1e6


def _left_in_groups(cgroups: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> list[int]:
    """Bytes that each memory control group of this process leaves, version 1 and 2."""
    left = []
    limits = ("memory.max", "memory.limit_in_bytes")
    for file in _limits_of_groups("memory", limits, cgroups, own):
        held = "anon" if file.name == limits[0] else "total_rss"
        used = re.search(rf"^{held} (\d+)$", (file.parent / "memory.stat").read_text(), re.M)
        if (most := file.read_text().strip()) != "max":
            left.append(int(most) - int(used[1] if used else 0))
    return left


@cache  # each scoring asks
def _cores_of_groups(cgroups: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> list[int]:
    """Cores whose time each control group of this process is given, rounded up."""
    cores = []
    for file in _limits_of_groups("cpu", ("cpu.max", "cpu.cfs_quota_us"), cgroups, own):
        quota, *period = file.read_text().split()
        if quota not in ("max", "-1"):
            of = period[0] if period else (file.parent / "cpu.cfs_period_us").read_text()
            cores.append(max(1, math.ceil(int(quota) / int(of))))
    return cores


def _limits_of_groups(
    controller: str, names: tuple[str, str], cgroups: Path, own: Path
) -> Iterator[Path]:
    """Files of a limit, by its names in version 2 and 1, of each control group of this process."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            root, name = cgroups, names[0]
        elif controller in controllers.split(","):
            root, name = cgroups / controller, names[1]
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be the host's; its own group is the root then.
        for folder in dict.fromkeys([group, *group.parents, root]):
            if folder.is_relative_to(root) and (folder / name).is_file():
                yield folder / name


def _told(file: Path, name: str) -> str:
    """What a file of Linux says behind a name, the first time; nothing where there is none."""
    found = re.search(rf"^{name}[ \t]*:(.*)$", said(file), re.M)
    return found[1].strip() if found else ""


def said(file: Path) -> str:
    """The text of a file in which a system tells of itself; none where there is no such file."""
    with suppress(OSError):
        return file.read_text()
    return ""


@cache
def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError):  # a container may hide it
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
            found[f"L{level}{'' if kind == 'Unified' else kind[0].lower()}"] = size
    return found


@cache
def _gpu_name() -> str | None:
    """Name of the first NVIDIA GPU as the driver states it, without importing torch."""
    drivers = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return next(filter(None, (_told(file, "Model") for file in drivers)), None)
