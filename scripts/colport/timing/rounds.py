"""One contender through the rounds: its worker, what is known of each case, and its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from colport.timing import statistics
from colport.timing.machine import meters
from colport.timing.schedule import plan_block
from colport.timing.settings import Case, Contender, Inputs, LatencySettings
from colport.timing.worker.process import WorkerFailure, WorkerProcess, drop_cached

_RAW = ("first_ns", "warmup_ns", "settle_ns", "rounds_ns", "preprocess_ns", "graph_ns")


@dataclass
class Record:
    """What is known of one contender's case; durations in nanoseconds.

    Attributes:
        rounds_ns: Samples, one list a round.
        outputs: Embeddings ``float32 [tokens, dim]`` of the case's inputs, from the first call.
        preprocess_ns: Durations of the preprocessing alone.
        graph_ns: Durations of the model alone.
        joules: Energy of all blocks; ``None`` where the machine does not tell it.
        metered_inputs: Inputs encoded meanwhile, settling calls included.
    """

    rounds_ns: list[list[int]]
    tokens: float | None = None
    outputs: list[np.ndarray] = field(default_factory=list)
    first_ns: int | None = None
    warmup_ns: list[int] = field(default_factory=list)
    warmup_stable: bool = False
    settle_ns: list[int] = field(default_factory=list)
    preprocess_ns: list[int] = field(default_factory=list)
    graph_ns: list[int] = field(default_factory=list)
    joules: float | None = None
    metered_inputs: int = 0
    failure: WorkerFailure | None = None

    def joules_per_input(self) -> float | None:
        """Energy of one input, ``None`` where the machine does not tell it."""
        return None if self.joules is None else self.joules / self.metered_inputs

    def samples(self) -> list[int]:
        """Samples of all rounds."""
        return [duration for durations in self.rounds_ns for duration in durations]


@dataclass(eq=False)
class Lane:
    """A contender, its worker and its records.

    Attributes:
        contender: Who.
        cases: What it is timed on.
        inputs: What it encodes.
        settings: How long and how often.
        stack: Ends the worker when it is closed.
        cores: Logical cores of the worker; ``None``: any.
        energy: Read around each block.
    """

    module: ClassVar[str] = "colport.timing.worker.worker"
    """What its worker runs."""

    contender: Contender
    cases: Sequence[Case]
    inputs: Inputs
    settings: LatencySettings
    stack: ExitStack
    cores: Sequence[int] | None
    energy: meters.EnergyMeter
    loaded: Mapping[str, Any] = field(default_factory=dict, init=False)
    restless: bool = field(default=False, init=False)
    restarts: list[str] = field(default_factory=list, init=False)
    _gpu_mb: float | None = field(default=None, init=False)
    _cold_load_ns: list[int] = field(default_factory=list, init=False)
    _worker: WorkerProcess | None = field(default=None, init=False)
    _peak_rss_mb: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        rounds = range(self.settings.rounds)
        self.records = {case: Record([[] for _ in rounds]) for case in self.cases}
        self._batches = {case: self.batches(case) for case in self.cases}

    @property
    def name(self) -> str:
        """Variant and provider, as progress and noise name it."""
        return f"{self.contender.variant} on {self.contender.provider}"

    def load_cold(self) -> None:
        """Load in a process of its own that ends again, with the files read from the disk.

        A failure is left to :meth:`start`, which meets it again.
        """
        drop_cached(self.contender.files)
        with ExitStack() as stack, contextlib.suppress(WorkerFailure):
            self._cold_load_ns = [self._load_in(self._new_worker(stack))["load_ns"]]

    def start(self) -> None:
        """Load the contender, and call each case until its duration is stable.

        Smaller batches come first: where memory runs out at one, larger ones are not tried.
        """
        if self._load():
            for case in sorted(self.records, key=lambda case: case.batch_size):
                self._ask_case(case, self._warm_up)
            self._rest()
            self._read_gpu()

    def run_block(self, round_number: int, case: Case) -> None:
        """One turn: the calls of one block, then rest."""
        self._ask_case(case, lambda case: self._block(round_number, case))
        self._rest()

    def run_parts(self, case: Case) -> None:
        """One turn of the parts of a call, each by itself, then rest."""
        self._ask_case(case, self._parts)
        self._rest()
        self._read_gpu()

    def is_precise(self, case: Case) -> bool:
        """Whether the interval of the case's p50 is as narrow as asked, or it has failed."""
        record = self.records[case]
        if record.failure is not None:
            return True
        low, high = statistics.percentile_interval(record.rounds_ns, 0.5)
        median = np.median(record.samples()) if record.samples() else 0.0
        reach = self.settings.precision * median
        return low is not None and median - reach <= low and high <= median + reach

    def close_requests(self) -> None:
        """Let the worker end by itself."""
        self._worker.close_requests()

    def batches(self, case: Case) -> list[list[int]]:
        """Numbers of the inputs of each call of a case, before they start again."""
        return [self.inputs.first(case.kind, case.batch_size)]

    def sizes(self, case: Case) -> list[int]:
        """Inputs of each call of a case, before they start again."""
        return [len(batch) for batch in self._batches[case]]

    def timing(self, case: Case) -> LatencySettings:
        """How long and how often a case is measured."""
        return self.settings

    def _load(self) -> bool:
        self._worker = self._new_worker(self.stack)
        try:
            loaded = self._load_in(self._worker)
        except WorkerFailure as failure:
            if failure.out_of_memory:
                failure = failure.as_limit("out of memory while loading")
            self._give_up(failure)
            return False
        self.loaded = self.loaded or loaded
        return True

    def _new_worker(self, stack: ExitStack) -> WorkerProcess:
        worker = WorkerProcess(
            *(self.settings.threads, self.settings.timeout_s, self.cores, self.contender.python),
            self.module,
        )
        stack.callback(worker.stop)
        return worker

    def _load_in(self, worker: WorkerProcess) -> dict[str, Any]:
        return worker.ask(
            "load",
            factory=self.contender.factory,
            arguments=dict(self.contender.arguments),
            forms_batches=self.contender.forms_batches,
            threads=self.settings.threads,
            cores=self.cores,
            max_memory_mb=self.settings.max_memory_mb,
            **dataclasses.asdict(self.inputs),
        )

    def _warm_up(self, case: Case) -> None:
        record, settings = self.records[case], self.timing(case)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "outputs.npz")
            reply = self._ask("first", case, outputs=str(file))
            if record.first_ns is None:  # a restarted process repeats what is known
                record.first_ns, record.tokens = reply["duration_ns"], reply["tokens"]
                with np.load(file, allow_pickle=False) as outputs:
                    record.outputs = [outputs[name] for name in outputs.files]
        most, seconds = settings.warmup_max_calls, settings.warmup_max_seconds
        bounds = {"max_calls": most, "max_seconds": seconds}
        reply = self._ask("warm_up", case, wait_seconds=seconds, **bounds)
        record.warmup_ns, record.warmup_stable = reply["durations_ns"], reply["stable"]

    def _block(self, round_number: int, case: Case) -> None:
        record = self.records[case]
        samples = record.samples()
        last_call = (samples or record.warmup_ns or [record.first_ns])[-1]
        sampled = sum(samples)
        block = plan_block(
            self.timing(case),
            round_number,
            samples=len(samples),
            sampled_seconds=sampled / statistics.NS_PER_S,
            spent_seconds=(sampled + sum(record.settle_ns)) / statistics.NS_PER_S,
            call_seconds=last_call / statistics.NS_PER_S,
        )
        if block is None:
            return
        wait = max(0.0, block.max_seconds)
        before = self.energy.read()
        reply = self._ask("block", case, wait_seconds=wait, **dataclasses.asdict(block))
        joules = self.energy.joules(before, self.energy.read())
        if joules is not None:
            sizes = self.sizes(case)
            record.joules = (record.joules or 0.0) + joules
            record.metered_inputs += sizes[0] * len(reply["settle_ns"])
            record.metered_inputs += statistics.encoded(len(reply["durations_ns"]), sizes)
        record.rounds_ns[round_number] = reply["durations_ns"]
        record.settle_ns += reply["settle_ns"]

    def _parts(self, case: Case) -> None:
        record, seconds = self.records[case], self.settings.parts_seconds
        bounds = {"calls": self.settings.parts_calls, "seconds": seconds}
        reply = self._ask("parts", case, wait_seconds=seconds, **bounds)
        record.preprocess_ns += reply["preprocess_ns"]
        record.graph_ns += reply["graph_ns"]

    def _ask(self, request: str, case: Case, **fields: Any) -> dict[str, Any]:
        given = {"kind": case.kind, "batches": self._batches[case], **fields}
        try:
            return self._worker.ask(request, **given)
        finally:
            self._peak_rss_mb = self._worker.peak_rss_mb

    def _ask_case(self, case: Case, action: Callable[[Case], None]) -> None:
        if self.records[case].failure is not None:
            return
        try:
            action(case)
        except WorkerFailure as failure:
            if failure.out_of_memory or failure.killed:
                self._limit(case, failure)
                if failure.ended:
                    self._restart(case)
            elif failure.ended:
                self._give_up(failure)
            else:
                self.records[case].failure = failure

    def _limit(self, case: Case, failure: WorkerFailure) -> None:
        """The case fails, and larger batches of its kind with it, untried."""
        sizes = [
            other.batch_size
            for other, record in self.records.items()
            if other.kind == case.kind and record.first_ns is not None and record.failure is None
        ]
        largest = max((size for size in sizes if size < case.batch_size), default=None)
        cause = "out of memory" if failure.out_of_memory else failure.reason
        reason = f"{cause} at batch size {case.batch_size}; " + (
            "none ran" if largest is None else f"the largest that ran is {largest}"
        )
        for other, record in self.records.items():
            if other.kind == case.kind and other.batch_size >= case.batch_size:
                record.failure = record.failure or failure.as_limit(reason)

    def _restart(self, case: Case) -> None:
        """Go on in a new process with what did fit."""
        self._worker.stop(grace_s=0.0)
        self.restarts.append(
            f"the process ended at {case.kind} batch size {case.batch_size} and was started again"
        )
        if self._load():
            for other in sorted(self.records, key=lambda case: case.batch_size):
                if self.records[other].first_ns is not None:
                    self._ask_case(other, self._warm_up)

    def _give_up(self, failure: WorkerFailure) -> None:
        """Figures of a process that ended early are not published, whichever case ended it."""
        for record in self.records.values():
            record.failure = record.failure or failure
        self._worker.stop(grace_s=0.0)

    def _read_gpu(self) -> None:
        """Allocators keep what they once took, so that a reading between turns finds the peak."""
        now = meters.gpu_memory_mb(self._worker.pid)
        if now is not None:
            self._gpu_mb = max(now, self._gpu_mb or 0.0)

    def _rest(self) -> None:
        self.restless |= not self._worker.wait_quiet()

    def remark(self) -> str:
        """What its rows say beside their figures."""
        return "; ".join(filter(None, (self.contender.note, *self.restarts)))

    def row(self, case: Case) -> dict[str, Any]:
        """The row of one case, comparisons with the reference still open."""
        contender, record, settings = self.contender, self.records[case], self.timing(case)
        timed = Case(case.kind, case.batch_size)
        identity = (contender.model, contender.variant, contender.provider, timed)
        if record.failure is not None:
            status = "unsupported" if record.failure.unsupported else "failed"
            return statistics.make_row(*identity, status=status, reason=record.failure.reason)
        samples = record.samples()
        short = sum(samples) / statistics.NS_PER_S < settings.min_seconds
        few = len(samples) < settings.min_samples
        return statistics.make_row(
            *identity,
            reason=self.remark(),
            tokens=record.tokens,
            image_size=self.loaded["image_size"] if case.kind != "query" else "",
            load_ms=self.loaded["load_ns"] / statistics.NS_PER_MS,
            import_ms=self.loaded["import_ns"] / statistics.NS_PER_MS,
            first_ms=record.first_ns / statistics.NS_PER_MS,
            warmup_calls=len(record.warmup_ns),
            warmup_stable=record.warmup_stable,
            truncated=(short or few) and not self.is_precise(case),
            peak_rss_mb=self._peak_rss_mb,
            preprocess_ms=statistics.median_ms(record.preprocess_ns),
            graph_ms=statistics.median_ms(record.graph_ns),
            cold_load_ms=statistics.median_ms(self._cold_load_ns),
            joules_per_input=record.joules_per_input(),
            gpu_peak_mb=self._gpu_mb,
            **statistics.summarize(samples, case.batch_size),
            **statistics.intervals(record.rounds_ns),
        )

    def raw(self, case: Case) -> dict[str, Any]:
        """Every duration of one case, in nanoseconds."""
        samples = {name: getattr(self.records[case], name) for name in _RAW}
        return {**self.identity(), **dataclasses.asdict(case), **samples}

    def identity(self) -> dict[str, Any]:
        """What samples and failures name it by."""
        return {"variant": self.contender.variant, "provider": self.contender.provider}

    def failures(self) -> list[dict[str, Any]]:
        """Reasons and tracebacks, a failed case each."""
        return [
            {
                **self.identity(),
                **dataclasses.asdict(case),
                "reason": record.failure.reason,
                "detail": record.failure.detail,
            }
            for case, record in self.records.items()
            if record.failure is not None
        ]
