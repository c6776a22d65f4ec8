"""What the machine tells beside the clock: core frequency, throttling, energy, GPU memory.

Every figure may be missing; then :meth:`Machine.record` says why, and nothing is guessed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_CPUS = Path("/sys/devices/system/cpu")
_POWERCAP = Path("/sys/class/powercap")
_QUERY_SECONDS = 5.0

Query = Callable[[str], str | None]
"""Takes a query of ``nvidia-smi``, gives its CSV lines, or ``None`` without a GPU."""


def frequencies_mhz(
    cores: Iterable[int], cpus: Path = _CPUS, cpuinfo: Path = Path("/proc/cpuinfo")
) -> list[float] | None:
    """The frequency of each core now; ``None`` where neither place tells it."""
    try:
        files = [cpus / f"cpu{core}/cpufreq/scaling_cur_freq" for core in cores]
        return [int(file.read_text()) / 1000 for file in files]
    except (OSError, ValueError):
        pass
    try:
        known = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo.read_text(), re.MULTILINE)
        return [float(known[core]) for core in cores]
    except (OSError, IndexError):
        return None


def throttle_count(cores: Iterable[int], cpus: Path = _CPUS) -> int | None:
    """How often heat has slowed these cores since the start; ``None`` where nobody counts."""
    files = [cpus / f"cpu{core}/thermal_throttle/core_throttle_count" for core in cores]
    try:
        return sum(int(file.read_text()) for file in files)
    except (OSError, ValueError):
        return None


class EnergyMeter:
    """Energy of the CPU packages between two readings, the whole machine's.

    Attributes:
        reason: Why there is none, or empty.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._counters: dict[Path, int] = {}
        """Files with microjoules since some start, and where they start again from 0."""
        self.reason = "the machine has no energy counters (powercap)"
        # Deeper ones are parts of a package.
        zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        try:
            for zone in zones:
                (zone / "energy_uj").read_text()
                limit = int((zone / "max_energy_range_uj").read_text())
                self._counters[zone / "energy_uj"] = limit
                self.reason = ""
        except OSError as error:
            self._counters = {}
            self.reason = f"energy counters cannot be read ({error.strerror})"

    def read(self) -> list[int] | None:
        """The counters now, in microjoules; ``None`` without any."""
        return [int(counter.read_text()) for counter in self._counters] or None

    def joules(self, before: list[int] | None, after: list[int] | None) -> float | None:
        """Joules between two readings less than a turn of the counter apart."""
        if before is None or after is None:
            return None
        parts = zip(before, after, self._counters.values(), strict=True)
        return sum((end - start + turn * (end < start)) / 1e6 for start, end, turn in parts)


def nvidia_smi(query: str) -> str | None:
    """Ask ``nvidia-smi``; ``None`` where it is not installed, fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def gpu_memory_mb(pid: int, ask: Query = nvidia_smi) -> float | None:
    """MiB on all GPUs that a process holds now, ONNX Runtime's and PyTorch's alike.

    The driver's count: contexts and caches of the allocators included. In containers the driver may
    see other process ids than ours; then it is unknown.
    """
    answer = ask("--query-compute-apps=pid,used_memory")
    if answer is None:
        return None
    sizes = re.findall(rf"^\s*{pid}\s*,\s*(.*?)\s*$", answer, re.MULTILINE)
    try:
        return sum(map(float, sizes)) if sizes else None
    except ValueError:  # [N/A]
        return None


class Machine:
    """Frequency and heat of some cores over a run, read between rounds.

    Args:
        cores: Logical cores that the contenders run on.
        cpus: Where Linux describes them.
    """

    def __init__(self, cores: Iterable[int], cpus: Path = _CPUS) -> None:
        self._cores = tuple(cores)
        self._cpus = cpus
        self._frequencies: list[list[float] | None] = []
        self._throttles: list[int | None] = []

    def read(self) -> None:
        """Read both now: at the start of a round, which is the end of the one before."""
        self._frequencies.append(frequencies_mhz(self._cores, self._cpus))
        self._throttles.append(throttle_count(self._cores, self._cpus))

    def throttled(self) -> list[str]:
        """A reason to distrust the run, if heat slowed the cores between the readings."""
        known = [count for count in self._throttles if count is not None]
        times = known[-1] - known[0] if known else 0
        return [f"heat slowed the cores {times} times"] if times else []

    def record(self, energy: EnergyMeter, ask: Query = nvidia_smi) -> dict[str, Any]:
        """``frequency_mhz`` and ``throttle_count`` by reading, and what is ``missing``, why."""
        missing = {
            "frequency_mhz": "no core tells its frequency" if None in self._frequencies else "",
            "throttle_count": "no core counts throttling" if None in self._throttles else "",
            "joules_per_input": energy.reason,
            "gpu_peak_mb": "" if ask("--query-gpu=name") else "nvidia-smi is not on this machine",
        }
        return {
            "frequency_mhz": self._frequencies,
            "throttle_count": self._throttles,
            "missing": {name: reason for name, reason in missing.items() if reason},
        }
