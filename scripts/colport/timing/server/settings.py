"""What a run of the scenarios is told: which, for how long, and what a server has to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from colport.base import declared
from colport.base.machine import usable_cores
from colport.base.names import KINDS
from colport.timing.settings import Case, Inputs, LatencySettings

SINGLE_STREAM, OFFLINE, SERVER = "single_stream", "offline", "server"
SCENARIOS = (SINGLE_STREAM, OFFLINE, SERVER)
_Name = Annotated[str, declared.Allowed(enum=SCENARIOS)]
_ABOVE_0 = {"type": "number", "exclusiveMinimum": 0}


@dataclass(frozen=True)
class ScenarioCase(Case):
    """A scenario for one kind of input; a server's ``batch_size`` is its largest."""

    table: ClassVar[str] = "scenarios"

    scenario: str


def _by_kind(values: Mapping[str, Any]) -> declared.Allowed:
    parts = {kind: {**values, "description": f"For the kind ``{kind}``."} for kind in KINDS}
    return declared.Allowed(properties=parts, additionalProperties=False)


@dataclass(frozen=True)
class ServerSettings:
    """How a server is loaded, and the target that it has to meet."""

    max_batch: declared.Count = 8
    """Waiting requests that share a call, at most."""

    max_wait_ms: declared.NotNegative = 0
    """How long one may wait for others to fill a call."""

    p99_ms: Annotated[Mapping[str, float], _by_kind(_ABOVE_0)] = field(default_factory=dict)
    """The target in milliseconds, by kind: ``{query: 50, document: 500}``."""

    p99_multiple: declared.Positive = 5
    """The target of a kind that ``p99_ms`` does not name, in multiples of PyTorch's single-stream
    median."""

    confidence: Annotated[float, declared.Allowed(exclusiveMinimum=0, exclusiveMaximum=1)] = 0.99
    """Probability that the p99 meets the target at the rate found. The default is MLPerf's: 459
    requests or more for each rate."""

    min_seconds: declared.NotNegative = 1
    """Seconds at one rate, at least."""

    max_seconds: declared.Positive = 60
    """A rate that would need more seconds is not tried."""

    resolution: declared.Positive = 0.05
    """The search ends when the rates that pass and fail differ by this share at most (0.05: 5%)."""

    max_probes: declared.Count = 10
    """Number of rates after which the search ends in any case."""

    rates: Annotated[
        Mapping[str, Sequence[float]], _by_kind({"type": "array", "items": _ABOVE_0})
    ] = field(default_factory=dict)
    """Further rates to measure, a second, by kind: ``{query: [10, 100]}``."""


@dataclass(frozen=True)
class OfflineSettings:
    """How all inputs are encoded at once."""

    batch_sizes: declared.Sizes = (1, 8, 32)
    """Each is tried; the best counts."""

    sort_by_length: bool = True
    """Inputs of like length share a batch, so that little is padded."""

    min_seconds: declared.NotNegative = 1
    """Seconds that the whole passes over the inputs take at least, over all rounds."""


@dataclass(frozen=True)
class ScenarioSettings:
    """Which scenarios, and how long."""

    run: Annotated[tuple[_Name, ...], declared.Allowed(uniqueItems=True)] = ()
    """Which of them run."""

    inputs: declared.Count = 64
    """Number of queries and of documents, the first ones of the model's first dataset."""

    rounds: declared.Count = 3
    """How often the contenders take turns in single stream and offline."""

    min_seconds: declared.NotNegative = 1
    """Seconds of single-stream calls, at least, in whole passes over the inputs."""

    max_seconds: declared.Positive = 30
    """Seconds after which no further call of a kind (offline: of a batch size) starts."""

    warmup_calls: declared.Count = 20
    """Single calls of each kind before anything counts, at most: once every input had its turn,
    they end when three in a row take the same time."""

    threads: Annotated[int, declared.IN_CODE] = field(default_factory=usable_cores)
    """Threads of each contender."""

    affinity: Annotated[bool | tuple[int, ...], declared.IN_CODE] = True
    """As in :class:`colport.timing.settings.LatencySettings`."""

    seed: declared.Natural = 0
    """Seed of arrivals, of the inputs that they bring and of the order of turns."""

    quiet_wait_s: declared.NotNegative = 30
    """As in ``latency``."""

    timeout_s: declared.Positive = 600
    """Seconds within which a contender has to answer; else it has failed."""

    offline: OfflineSettings = field(default_factory=OfflineSettings)
    """All inputs at once."""

    server: ServerSettings = field(default_factory=ServerSettings)
    """Requests that come one by one: see below."""

    def cases(self, inputs: Inputs) -> list[ScenarioCase]:
        """Single stream always, as the target and the first rate of a server come from it."""
        found: list[ScenarioCase] = []
        for kind in inputs.kinds():
            found.append(ScenarioCase(kind, 1, SINGLE_STREAM))
            if OFFLINE in self.run:
                # A batch larger than the inputs are is one with all of them.
                count = len(inputs.of(kind))
                sizes = dict.fromkeys(min(size, count) for size in self.offline.batch_sizes)
                found += [ScenarioCase(kind, size, OFFLINE) for size in sizes]
            if SERVER in self.run:
                found.append(ScenarioCase(kind, self.server.max_batch, SERVER))
        return found

    def timing(self, scenario: str) -> LatencySettings:
        """How long it is timed, one pass in each round at least; single inputs warm up."""
        is_single = scenario == SINGLE_STREAM
        seconds = self.min_seconds if is_single else self.offline.min_seconds
        shared = ("rounds", "max_seconds", "threads", "affinity", "seed")
        shared += ("quiet_wait_s", "timeout_s")
        return LatencySettings(
            warmup_max_calls=self.warmup_calls if is_single else 1,
            warmup_max_seconds=self.max_seconds,
            min_samples=1,
            min_seconds=min(seconds, self.max_seconds),
            precision=0,
            **{name: getattr(self, name) for name in shared},
        )

    def __post_init__(self) -> None:
        declared.check(self, "scenarios.")
