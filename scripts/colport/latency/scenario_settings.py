"""What a run of the scenarios is told: which, for how long, and what a server has to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from colport.environment import usable_cores
from colport.errors import ConfigError

SINGLE_STREAM, OFFLINE, SERVER = "single_stream", "offline", "server"
SCENARIOS = (SINGLE_STREAM, OFFLINE, SERVER)


@dataclass(frozen=True)
class ServerSettings:
    """How a server is loaded, and the target that it has to meet.

    Attributes:
        max_batch: Waiting requests that one call takes, at most.
        max_wait_ms: How long a request may wait for others to fill a call.
        p99_ms: Latency target by kind, in milliseconds.
        p99_multiple: The target of a kind that ``p99_ms`` does not name, in multiples of PyTorch's
            single-stream median.
        confidence: Of the statement that the 99th percentile meets the target; MLPerf's is 0.99.
        min_seconds: A probe lasts so long, or as many requests as ``confidence`` needs.
        max_seconds: A rate at which a probe would last longer is not tried.
        resolution: The search ends when the rates that pass and fail differ by this share.
        max_probes: The search ends after so many rates in any case.
        rates: By kind, requests a second that are measured whatever comes of it.
    """

    max_batch: int = 8
    max_wait_ms: float = 0.0
    p99_ms: Mapping[str, float] = field(default_factory=dict)
    p99_multiple: float = 5.0
    confidence: float = 0.99
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    resolution: float = 0.05
    max_probes: int = 10
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class OfflineSettings:
    """How all inputs are encoded at once.

    Attributes:
        batch_sizes: Each is tried; the best counts.
        sort_by_length: Inputs of like length share a batch, so that little is padded.
        min_seconds: Whole passes over the inputs, so many seconds at least, over all rounds.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    sort_by_length: bool = True
    min_seconds: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_sizes", tuple(self.batch_sizes))


@dataclass(frozen=True)
class ScenarioSettings:
    """Which scenarios, and how long.

    Attributes:
        run: Names of :data:`SCENARIOS`.
        inputs: So many first queries and documents are encoded.
        rounds: How often the contenders take turns in single stream and offline.
        min_seconds: Seconds of single-stream calls, at least; whole passes over the inputs.
        max_seconds: Seconds after which no further call starts of a kind in single stream, or of a
            batch size offline.
        warmup_calls: Single calls of each kind before anything counts.
        threads: Threads of each contender.
        affinity: As in :class:`colport.latency.LatencySettings`.
        seed: Of the arrivals, of the inputs that they bring and of the order of turns.
        quiet_wait_s: As in :class:`colport.latency.LatencySettings`.
        timeout_s: As in :class:`colport.latency.LatencySettings`.
        offline: The offline scenario.
        server: The server scenario.
    """

    run: tuple[str, ...] = SCENARIOS
    inputs: int = 64
    rounds: int = 3
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    warmup_calls: int = 20
    threads: int = field(default_factory=usable_cores)
    affinity: bool | tuple[int, ...] = True
    seed: int = 0
    quiet_wait_s: float = 30.0
    timeout_s: float = 600.0
    offline: OfflineSettings = field(default_factory=OfflineSettings)
    server: ServerSettings = field(default_factory=ServerSettings)

    @classmethod
    def from_config(cls, section: Mapping[str, Any], threads: int) -> ScenarioSettings:
        """Read the ``scenarios`` section of a config that its schema has accepted.

        Args:
            section: The section.
            threads: Threads of each contender.

        Raises:
            ConfigError: Two settings contradict each other.
        """
        parts = {"offline": OfflineSettings, "server": ServerSettings}
        made = {name: make(**section[name]) for name, make in parts.items() if name in section}
        return cls(**{**section, "threads": threads, **made})

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", tuple(self.run))
        unknown = [name for name in self.run if name not in SCENARIOS]
        if unknown:
            raise ConfigError(
                f"scenarios.run: found {unknown[0]!r}; allowed are {', '.join(SCENARIOS)}."
            )
        if self.max_seconds < self.min_seconds:
            raise ConfigError(
                f"scenarios.max_seconds: found {self.max_seconds}; expected at least "
                f"min_seconds, {self.min_seconds}."
            )
        if self.server.max_seconds < self.server.min_seconds:
            raise ConfigError(
                f"scenarios.server.max_seconds: found {self.server.max_seconds}; expected at "
                f"least min_seconds, {self.server.min_seconds}."
            )
