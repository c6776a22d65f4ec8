"""One latency run: start the workers, let them take turns, gather samples and rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from colport.base import machine
from colport.base.errors import ConfigError
from colport.base.names import REFERENCE_VARIANT
from colport.timing import statistics
from colport.timing.machine import meters, noise
from colport.timing.rounds import Lane
from colport.timing.schedule import turns
from colport.timing.settings import Case, Contender, Inputs, LatencySettings
from colport.timing.worker import cores

Progress = Callable[[str], None]
_PARTS_ROUNDS = 1


def measure(
    contenders: Sequence[Contender], inputs: Inputs, settings: LatencySettings, progress: Progress
) -> dict[str, Any]:
    """Time every contender on every case, in interleaved rounds.

    Each contender is loaded in a process of its own, called until its durations are stable, and
    then takes turns with the others in an order shuffled by ``settings.seed``; all others wait
    idle meanwhile. A duration is that of a whole ``encode_queries`` or ``encode_documents`` call.
    All contenders stay in memory until the end. Preprocessing and the model alone are timed after
    the rounds, so that no sample of a whole call is disturbed.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model; without
            PyTorch the speed-ups are ``None``.
        inputs: What they encode.
        settings: How long and how often.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (those of ``latency.csv``, in the order of
        ``contenders``), ``samples`` (every duration in nanoseconds by contender, case and round),
        ``failures`` (tracebacks and last outputs), ``inputs``, ``settings``, ``environment``,
        ``noise``, ``cores`` (those pinned to) and ``meters``. A contender that raises, ends or
        exceeds ``timeout_s`` has rows with status ``failed`` (``unsupported`` for an
        ``UnsupportedError``) and the reason; the others are measured all the same. An exception in
        one case fails that case only; a process that ended fails all cases of its contender. Where
        memory runs out, the case and larger batches of its kind are ``unsupported``, and the
        contender goes on with what did fit.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    most = max(settings.batch_sizes)
    given = dataclasses.replace(
        inputs, queries=inputs.queries[:most], documents=inputs.documents[:most]
    )
    cases = settings.cases(given)
    with Run(contenders, cases, given, settings, progress) as run:
        for lane in run.lanes if settings.cold_load else ():
            run.announce(f"loading {lane.name} from the disk")
            lane.load_cold()
        run.load()
        run.take_turns(cases)
        run.take_parts(cases)
    pairs = [(lane, case) for lane in run.lanes for case in cases]
    rows = [lane.row(case) for lane, case in pairs]
    records = [lane.records[case] for lane, case in pairs]
    statistics.add_token_times(rows)
    statistics.add_speedups(rows, [record.rounds_ns for record in records])
    statistics.add_cosines(rows, [record.outputs for record in records])
    return {
        "rows": rows,
        "samples": [lane.raw(case) for lane, case in pairs],
        "inputs": dataclasses.asdict(given),
        "settings": dataclasses.asdict(settings),
        **run.record(),
    }


@dataclasses.dataclass(eq=False)
class Run:
    """The contenders of a run in their processes, and what the machine did meanwhile.

    A context, whose end ends the processes.

    Attributes:
        contenders: Who takes part.
        cases: What they are timed on.
        inputs: What they encode.
        settings: How long and how often.
        progress: Called with one line for each step.
        lane: Makes the lane of a contender.
        lanes: One a contender, in their order.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """

    contenders: Sequence[Contender]
    cases: Sequence[Case]
    inputs: Inputs
    settings: LatencySettings
    progress: Progress
    lane: Callable[..., Lane] = Lane

    def __post_init__(self) -> None:
        settings = self.settings
        check(self.contenders, self.cases, settings.threads)
        self._stack = ExitStack()
        allowed = cores.usable()
        self._pinned = cores.choose(settings.affinity, settings.threads, allowed)
        self._energy = meters.EnergyMeter()
        self._machine = meters.Machine(self._pinned or sorted(allowed))
        self._watch = noise.Watch(machine.usable_cores(), settings.quiet_wait_s)
        shared = (self.cases, self.inputs, settings, self._stack, self._pinned, self._energy)
        self.lanes = [self.lane(contender, *shared) for contender in self.contenders]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error == (None, None, None):
            for lane in self.lanes:
                lane.close_requests()
        self._stack.close()

    def announce(self, step: str = "") -> None:
        """Name the next step, if it has a name, and wait until other processes are quiet."""
        if step:
            self.progress(step)
        self._watch.wait_for_quiet()

    def load(self) -> None:
        """Load every contender and warm it up."""
        for lane in self.lanes:
            self.announce(f"loading {lane.name}")
            lane.start()

    def take_turns(self, cases: Sequence[Case]) -> None:
        """All rounds: case by case, one contender after the other."""
        settings, last_round = self.settings, None
        for number, case, order in turns(len(self.lanes), cases, settings.rounds, settings.seed):
            if number != last_round:
                self.progress(f"round {number + 1} of {settings.rounds}")
                self._machine.read()
                last_round = number
            if settings.precision and all(lane.is_precise(case) for lane in self.lanes):
                continue
            self.announce()
            for index in order:
                self.lanes[index].run_block(number, case)
        self._machine.read()

    def take_parts(self, cases: Sequence[Case]) -> None:
        """Preprocessing and the model alone, in one round."""
        self.progress("preprocessing and graph apart")
        for _, case, order in turns(len(self.lanes), cases, _PARTS_ROUNDS, self.settings.seed):
            self.announce()
            for index in order:
                self.lanes[index].run_parts(case)

    def record(self) -> dict[str, Any]:
        """What is the same for every kind of run: failures, environment, noise, cores, meters."""
        found = self._watch.record()
        restless = [lane.name for lane in self.lanes if lane.restless]
        reasons = [*found["reasons"], *self._machine.throttled()]
        reasons += [f"{name} kept using the CPU between its turns" for name in restless]
        return {
            "failures": [failure for lane in self.lanes for failure in lane.failures()],
            "environment": machine.describe(),
            "noise": {**found, "noisy": bool(reasons), "reasons": reasons},
            "cores": self._pinned,
            "meters": self._machine.record(self._energy),
        }


def check(contenders: Sequence[Contender], cases: Sequence[Any], threads: int) -> None:
    """Refuse a run that would compare nothing, or what cannot be compared.

    Args:
        contenders: Who is timed.
        cases: What is timed; must not be empty.
        threads: Threads of each contender.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    if not contenders or not cases:
        raise ConfigError("A latency run needs at least one contender and one input.")
    models = sorted({contender.model for contender in contenders})
    if len(models) > 1:
        raise ConfigError(f"A latency run compares variants of one model; found {models}.")
    names = [(contender.variant, contender.provider) for contender in contenders]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"These contenders are listed more than once: {repeated}.")
    if sum(contender.variant == REFERENCE_VARIANT for contender in contenders) > 1:
        raise ConfigError("A latency run has one PyTorch reference; found several.")
    for contender in contenders:
        found = contender.arguments.get("threads", threads)
        if found != threads:
            raise ConfigError(
                f"{contender.variant}: arguments.threads is {found}, but settings.threads is "
                f"{threads}; contenders are compared at the same number."
            )
