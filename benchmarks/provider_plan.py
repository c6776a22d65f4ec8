"""What ``python -m benchmarks.providers`` measures, and how much of it fits into a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import random_checkpoints
from colport.base import machine
from colport.base.errors import ConfigError
from colport.pipeline import config, variants
from colport.providers import ProviderSettings
from colport.timing.settings import LatencySettings

_TOKENS = (32, 64, 128, 256, 512)  # lengths that captured graphs are padded to
_CALLS = 4  # a case's fewest: first, warm-up, sample, parts


@dataclass(frozen=True)
class ProviderPlan:
    """What is measured.

    Attributes:
        sizes: Names of :func:`benchmarks.random_checkpoints.sizes`.
        providers: Entries by name, see :func:`entries`.
        text: Folder of a text model, measured first; ``None`` is none.
        precisions: Ready-made float variants.
        batch_sizes: Batch sizes of every case.
        limit_seconds: Seconds of everything; what does not fit is listed as not run.
        threads: Threads of every contender.
        case_seconds: Seconds of samples of a contender's case, at most.
        quiet_seconds: Seconds that a run may wait for other processes to finish theirs, at most.
    """

    sizes: Sequence[str]
    providers: Mapping[str, Mapping[str, Any]]
    text: Path | None = None
    precisions: Sequence[str] = ("fp32", "fp16", "bf16")
    batch_sizes: Sequence[int] = (1, 8, 32)
    limit_seconds: float = 480.0
    threads: int = field(default_factory=machine.usable_cores)
    case_seconds: float = 3.0
    quiet_seconds: float = 10.0

    def __post_init__(self) -> None:
        known = random_checkpoints.sizes()
        for size in self.sizes:
            if size not in known:
                raise ConfigError(f"sizes: {size!r} is unknown; allowed are {', '.join(known)}.")
        floats = [name for name, item in variants.ready_made().items() if "base" not in item]
        for name in self.precisions:
            if name not in floats:
                raise ConfigError(f"variants: found {name!r}; allowed are {', '.join(floats)}.")
        if self.text is not None and not self.text.is_dir():
            raise ConfigError(f"text: {self.text}: there is no such folder.")
        if not self.limit_seconds > 0:
            raise ConfigError(f"limit: found {self.limit_seconds}; expected seconds above 0.")
        LatencySettings(batch_sizes=tuple(self.batch_sizes), threads=self.threads)  # checks them


def entries(providers: str, batch_sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Provider entries by name.

    Args:
        providers: Comma-separated types, or a YAML file with the entries of a config's
            ``providers``. A type with memory of its own stands for several entries: plain,
            ``-io-binding`` and, where it can, ``-graph`` (CUDA graphs). A file's entries are
            taken as they are.
        batch_sizes: Batches that are captured.

    Raises:
        ConfigError: An entry is wrong; see :class:`colport.providers.ProviderSettings`.
    """
    if Path(providers).suffix in (".yaml", ".yml"):
        found = config.load(providers)
        for name, entry in found.items():
            if not isinstance(entry, dict):
                raise ConfigError(f"{providers}: {name}: found {entry!r}, expected a mapping.")
    else:
        found = {}
        for name in providers.split(","):
            found |= _ways(name, batch_sizes)
    for name, entry in found.items():
        ProviderSettings.from_config(name, entry)
    return found


def _ways(name: str, batch_sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
    provider = ProviderSettings.of(name).provider
    if provider.memory == "cpu":
        return {name: {"type": name}}
    ways: dict[str, dict[str, Any]] = {
        name: {"type": name, "io_binding": False},
        f"{name}-io-binding": {"type": name, "io_binding": True},
    }
    if "cuda_graph" in provider.keys:
        shapes = {"batch": sorted(batch_sizes), "tokens": list(_TOKENS)}
        ways[f"{name}-graph"] = {"type": name, "cuda_graph": True, "fixed_shapes": shapes}
    return ways


def fitting(
    batch_sizes: Sequence[int], call_seconds: float, count: int, seconds: float
) -> tuple[list[int], float]:
    """Batch sizes, the smallest first, whose fewest calls fit into the time.

    Args:
        batch_sizes: Those asked for.
        call_seconds: Seconds of a query and a document of the slowest contender.
        count: Number of contenders.
        seconds: What there is for all of them.

    Returns:
        The batch sizes, and the seconds left for more calls.
    """
    chosen = []
    for size in sorted(batch_sizes):
        cost = count * _CALLS * size * call_seconds
        if cost > seconds:
            break
        chosen.append(size)
        seconds -= cost
    return chosen, seconds
