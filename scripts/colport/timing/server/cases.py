"""The scenarios as cases of a latency run: what is called, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from colport.timing.server.settings import OFFLINE, SERVER, SINGLE_STREAM, ScenarioSettings
from colport.timing.settings import Case, Inputs, LatencySettings


@dataclass(frozen=True)
class ScenarioCase(Case):
    """A scenario for one kind of input; a server's ``batch_size`` is its largest."""

    scenario: str


def cases(inputs: Inputs, settings: ScenarioSettings) -> list[ScenarioCase]:
    """Single stream always, as the target and the first rate of a server come from it."""
    found: list[ScenarioCase] = []
    for kind in inputs.kinds():
        found.append(ScenarioCase(kind, 1, SINGLE_STREAM))
        if OFFLINE in settings.run:
            # A batch larger than the inputs are is one with all of them.
            count = len(inputs.of(kind))
            sizes = dict.fromkeys(min(size, count) for size in settings.offline.batch_sizes)
            found += [ScenarioCase(kind, size, OFFLINE) for size in sizes]
        if SERVER in settings.run:
            found.append(ScenarioCase(kind, settings.server.max_batch, SERVER))
    return found


def timing(scenario: str, settings: ScenarioSettings) -> LatencySettings:
    """How long a scenario is timed, one pass in each round at least; single inputs warm up."""
    is_single = scenario == SINGLE_STREAM
    seconds = settings.min_seconds if is_single else settings.offline.min_seconds
    return LatencySettings(
        warmup_max_calls=settings.warmup_calls if is_single else 1,
        warmup_max_seconds=settings.max_seconds,
        rounds=settings.rounds,
        min_samples=1,
        min_seconds=min(seconds, settings.max_seconds),
        max_seconds=settings.max_seconds,
        precision=0,
        threads=settings.threads,
        affinity=settings.affinity,
        seed=settings.seed,
        quiet_wait_s=settings.quiet_wait_s,
        timeout_s=settings.timeout_s,
    )
