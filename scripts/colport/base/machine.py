"""What a figure was measured with: versions, processor, memory and threads."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "colpali-engine",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "openvino",
    "tokenizers",
    "pillow",
    "datasets",
    "pandas",
    "numpy",
    "snakemake",
)


INSTRUCTIONS = {
    "avx2": "AVX2",
    "asimd": "NEON",
    "avx512f": "AVX-512",
    "asimddp": "NEON dot product",
    "i8mm": "NEON i8mm",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX",
}
"""Linux's names of the instructions that decide how fast products are, the weakest first, to those
that a user knows."""

_MEMINFO = Path("/proc/meminfo")


def describe() -> dict[str, Any]:
    """The environment of this process, as stored in every result.

    Returns:
        ``packages`` (name to version, installed ones only), ``python``, ``platform``, ``cpu``,
        ``instructions`` (values of :data:`INSTRUCTIONS`, none where the system does not tell),
        ``cores`` (usable by this process), ``caches`` (of a core: name to its size as Linux writes
        it), ``memory_mb`` and ``gpu`` (a name or ``None``).
    """
    return {
        "packages": packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": instructions(),
        "cores": usable_cores(),
        "caches": _caches(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "gpu": _gpu_name(),
    }


def instructions() -> list[str]:
    """Those of :data:`INSTRUCTIONS` that this processor has, the weakest first."""
    has = {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}
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
def packages() -> dict[str, str]:
    """Versions of those of :data:`PACKAGES` that are installed here."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    Linux's ``VmHWM``: ``ru_maxrss`` of a started program includes its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def available_mb() -> float:
    """Memory that this process may still take, in MB (10**6 bytes).

    The least of what the machine has available, what each control group above the process leaves
    (its limit without what its processes hold; the page cache is given back when it is needed), and
    the process's own limit. Elsewhere than on Linux all that the machine has.
    """
    try:
        found = [int(re.search(r"MemAvailable:\s+(\d+)", _MEMINFO.read_text())[1]) * 2**10]
    except OSError:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        if (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
            found.append(most)
    return min(*found, *_left_in_groups()) / 1e6


def _left_in_groups(cgroups: Path = Path("/sys/fs/cgroup"), own: Path | None = None) -> list[int]:
    """Bytes that each memory control group of this process leaves, version 1 and 2."""
    try:
        lines = (own or Path("/proc/self/cgroup")).read_text().splitlines()
    except OSError:
        return []
    left = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            root, limit, held = cgroups, "memory.max", "anon"
        elif "memory" in controllers.split(","):
            root, limit, held = cgroups / "memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be the host's; its own group is the root then.
        for folder in dict.fromkeys([group, *group.parents, root]):
            if folder.is_relative_to(root) and (folder / limit).is_file():
                most = (folder / limit).read_text().strip()
                used = re.search(rf"^{held} (\d+)$", (folder / "memory.stat").read_text(), re.M)
                if most != "max":
                    left.append(int(most) - int(used[1] if used else 0))
    return left


def anonymous_mb() -> float:
    """Memory of this process that no file backs, in MiB: Linux's ``RssAnon``."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**10


@cache
def _cpuinfo(field: str) -> str:
    """A field of the first processor, as Linux tells it, or nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
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
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None
