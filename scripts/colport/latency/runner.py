"""One latency run: start the workers, let them take turns, gather samples and rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from colport import environment
from colport.errors import ConfigError
from colport.latency import noise, statistics
from colport.latency.process import WorkerFailure, WorkerProcess
from colport.latency.schedule import plan_block, turns
from colport.latency.settings import (
    REFERENCE_VARIANT,
    Case,
    Contender,
    Inputs,
    LatencySettings,
)

Progress = Callable[[str], None]
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass
class _Record:
    """What is known of one contender's case."""

    rounds: list[list[int]]
    tokens: float | None = None
    first_ns: int | None = None
    warmup_ns: list[int] = field(default_factory=list)
    warmup_stable: bool = False
    settle_ns: list[int] = field(default_factory=list)
    failure: WorkerFailure | None = None

    def samples(self) -> list[int]:
        return [duration for durations in self.rounds for duration in durations]


class _Lane:
    """A contender, its worker and its records."""

    def __init__(
        self, contender: Contender, cases: Sequence[Case], settings: LatencySettings
    ) -> None:
        self.contender = contender
        self.settings = settings
        self.records = {case: _Record([[] for _ in range(settings.rounds)]) for case in cases}
        self.worker: WorkerProcess | None = None
        self.loaded: Mapping[str, Any] = {}
        self.restless = False

    @property
    def name(self) -> str:
        return f"{self.contender.variant} on {self.contender.provider}"

    def start(self, inputs: Inputs, stack: ExitStack) -> None:
        """Load the contender, and call each case until its duration is stable."""
        self.worker = WorkerProcess(self.settings.threads, self.settings.timeout_s)
        stack.callback(self.worker.stop)
        most = max((case.batch_size for case in self.records), default=0)
        try:
            self.loaded = self.worker.ask(
                "load",
                factory=self.contender.factory,
                arguments=dict(self.contender.arguments),
                threads=self.settings.threads,
                queries=inputs.queries[:most],
                documents=inputs.documents[:most],
                pages=inputs.pages,
            )
        except WorkerFailure as failure:
            self._give_up(failure)
            return
        for case in self.records:
            self._ask_case(case, self._warm_up)
        self._rest()

    def run_block(self, round_number: int, case: Case) -> None:
        """One turn: the calls of one block, then rest."""
        self._ask_case(case, lambda case: self._block(round_number, case))
        self._rest()

    def _warm_up(self, case: Case) -> None:
        record, settings = self.records[case], self.settings
        reply = self.worker.ask("first", **dataclasses.asdict(case))
        record.first_ns, record.tokens = reply["duration_ns"], reply["tokens"]
        reply = self.worker.ask(
            "warm_up",
            wait_seconds=settings.warmup_max_seconds,
            max_calls=settings.warmup_max_calls,
            max_seconds=settings.warmup_max_seconds,
            **dataclasses.asdict(case),
        )
        record.warmup_ns, record.warmup_stable = reply["durations_ns"], reply["stable"]

    def _block(self, round_number: int, case: Case) -> None:
        record = self.records[case]
        samples = record.samples()
        last_call = (samples or record.warmup_ns or [record.first_ns])[-1]
        sampled = sum(samples)
        block = plan_block(
            self.settings,
            round_number,
            samples=len(samples),
            sampled_seconds=sampled / _NS_PER_S,
            spent_seconds=(sampled + sum(record.settle_ns)) / _NS_PER_S,
            call_seconds=last_call / _NS_PER_S,
        )
        if block is None:
            return
        reply = self.worker.ask(
            "block",
            wait_seconds=max(0.0, block.max_seconds),
            **dataclasses.asdict(block),
            **dataclasses.asdict(case),
        )
        record.rounds[round_number] = reply["durations_ns"]
        record.settle_ns += reply["settle_ns"]

    def _ask_case(self, case: Case, action: Callable[[Case], None]) -> None:
        if self.records[case].failure is not None:
            return
        try:
            action(case)
        except WorkerFailure as failure:
            if failure.ended:
                self._give_up(failure)
            else:
                self.records[case].failure = failure

    def _give_up(self, failure: WorkerFailure) -> None:
        """Figures of a process that ended early are not published, whichever case ended it."""
        for record in self.records.values():
            record.failure = record.failure or failure
        self.worker.stop(grace_s=0.0)

    def _rest(self) -> None:
        self.restless |= not self.worker.wait_quiet()

    def row(self, case: Case) -> dict[str, Any]:
        """The row of one case, speed-ups still open."""
        contender, record = self.contender, self.records[case]
        identity = (contender.model, contender.variant, contender.provider, case)
        if record.failure is not None:
            return statistics.make_row(
                *identity,
                **statistics.failed(record.failure.reason, record.failure.unsupported),
            )
        samples = record.samples()
        short = sum(samples) / _NS_PER_S < self.settings.min_seconds
        return statistics.make_row(
            *identity,
            tokens=record.tokens,
            image_size=self.loaded["image_size"] if case.kind == "document" else "",
            load_ms=self.loaded["load_ns"] / _NS_PER_MS,
            import_ms=self.loaded["import_ns"] / _NS_PER_MS,
            first_ms=record.first_ns / _NS_PER_MS,
            warmup_calls=len(record.warmup_ns),
            warmup_stable=record.warmup_stable,
            truncated=short or len(samples) < self.settings.min_samples,
            peak_rss_mb=self.worker.peak_rss_mb,
            **statistics.summarize(samples, case.batch_size),
            **statistics.intervals(record.rounds),
        )

    def raw(self, case: Case) -> dict[str, Any]:
        """Every duration of one case, in nanoseconds."""
        record = self.records[case]
        return {
            "variant": self.contender.variant,
            "provider": self.contender.provider,
            **dataclasses.asdict(case),
            "first_ns": record.first_ns,
            "warmup_ns": record.warmup_ns,
            "settle_ns": record.settle_ns,
            "rounds_ns": record.rounds,
        }


def print_progress(message: str) -> None:
    """Write one line to stderr."""
    print(message, file=sys.stderr, flush=True)


def measure(
    contenders: Sequence[Contender],
    inputs: Inputs,
    settings: LatencySettings,
    progress: Progress = print_progress,
) -> dict[str, Any]:
    """Time every contender on every case, in interleaved rounds.

    Each contender is loaded in a process of its own, called until its durations are stable, and
    then takes turns with the others in an order shuffled by ``settings.seed``; all others wait
    idle meanwhile. A duration is that of a whole ``encode_queries`` or ``encode_documents`` call.
    All contenders stay in memory until the end.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model; without
            PyTorch the speed-ups are ``None``.
        inputs: What they encode.
        settings: How long and how often.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (:data:`colport.latency.statistics.COLUMNS`, in the order of
        ``contenders``), ``samples`` (every duration in nanoseconds by contender, case and round),
        ``failures`` (tracebacks and last outputs), ``inputs``, ``settings``, ``environment`` and
        ``noise``. A contender that raises, ends or exceeds ``timeout_s`` has rows with status
        ``failed`` (``unsupported`` for an ``UnsupportedError``) and the reason; the others
        are measured all the same. An exception in one case fails that case only; a process that
        ended fails all cases of its contender.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    cases = settings.cases(inputs)
    check(contenders, cases, settings.threads)
    lanes = [_Lane(contender, cases, settings) for contender in contenders]
    watch = noise.Watch(environment.usable_cores(), settings.quiet_wait_s)
    with ExitStack() as stack:
        for lane in lanes:
            progress(f"loading {lane.name}")
            watch.wait_for_quiet()
            lane.start(inputs, stack)
        last_round = None
        for number, case, order in turns(len(lanes), cases, settings.rounds, settings.seed):
            if number != last_round:
                progress(f"round {number + 1} of {settings.rounds}")
                last_round = number
            watch.wait_for_quiet()
            for index in order:
                lanes[index].run_block(number, case)
        for lane in lanes:
            lane.worker.close_requests()
    return _payload(lanes, cases, inputs, settings, _with_restless(watch.record(), lanes))


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


def _with_restless(record: dict[str, Any], lanes: Sequence[_Lane]) -> dict[str, Any]:
    reasons = [
        *record["reasons"],
        *(f"{lane.name} kept using the CPU between its turns" for lane in lanes if lane.restless),
    ]
    return {**record, "noisy": bool(reasons), "reasons": reasons}


def _payload(
    lanes: Sequence[_Lane],
    cases: Sequence[Case],
    inputs: Inputs,
    settings: LatencySettings,
    noise_record: Mapping[str, Any],
) -> dict[str, Any]:
    pairs = [(lane, case) for lane in lanes for case in cases]
    rows = [lane.row(case) for lane, case in pairs]
    statistics.add_speedups(rows, [lane.records[case].rounds for lane, case in pairs])
    most = max(settings.batch_sizes)
    return {
        "rows": rows,
        "samples": [lane.raw(case) for lane, case in pairs],
        "failures": [
            {
                "variant": lane.contender.variant,
                "provider": lane.contender.provider,
                **dataclasses.asdict(case),
                "reason": failure.reason,
                "detail": failure.detail,
            }
            for lane, case in pairs
            if (failure := lane.records[case].failure) is not None
        ],
        "inputs": {
            "queries": list(inputs.queries[:most]),
            "documents": list(inputs.documents[:most]),
            "pages": inputs.pages,
        },
        "settings": dataclasses.asdict(settings),
        "environment": environment.describe(),
        "noise": dict(noise_record),
    }
