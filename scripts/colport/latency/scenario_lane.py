"""One contender of the scenarios: its process, what it was asked, and what came of it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from colport.latency import scenario_rows
from colport.latency.probes import Probe, ServerRun
from colport.latency.process import WorkerFailure, WorkerProcess
from colport.latency.scenario_settings import OFFLINE, SERVER, SINGLE_STREAM, ScenarioSettings
from colport.latency.settings import Contender, Inputs
from colport.latency.statistics import failed

_NS_PER_S = 1e9
_SURVEYED = 3


@dataclass(frozen=True)
class ScenarioCase:
    """A scenario for one kind of input; offline, for one batch size."""

    scenario: str
    kind: str
    batch_size: int

    def __str__(self) -> str:
        size = f", batch size {self.batch_size}" if self.scenario == OFFLINE else ""
        return f"{self.scenario}, {self.kind}{size}"


class Lane:
    """A contender, its worker and its samples.

    Args:
        contender: Who.
        inputs: What it encodes.
        settings: How long.
        cores: Logical cores of the worker; ``None``: any.

    Attributes:
        cases: What is measured, single stream first.
        servers: A search for each kind whose server could be started.
        restless: It went on using the CPU after a turn.
    """

    def __init__(
        self,
        contender: Contender,
        inputs: Inputs,
        settings: ScenarioSettings,
        cores: Sequence[int] | None = None,
    ) -> None:
        self.contender = contender
        self.settings = settings
        self.servers: dict[str, ServerRun] = {}
        self.restless = False
        self.worker: WorkerProcess | None = None
        self._inputs = inputs
        self._cores = cores
        self._calls: dict[ScenarioCase, list[list[int]]] = {}
        self._warm: dict[ScenarioCase, int] = {}
        self._failures: dict[ScenarioCase, WorkerFailure] = {}
        self._count = {"query": len(inputs.queries), "document": len(inputs.documents)}
        self.cases = [
            case for kind in inputs.kinds() for case in _cases(kind, self._count[kind], settings)
        ]
        self._batches = {case: self._pass(case) for case in self.cases if case.scenario != SERVER}

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.contender.variant} on {self.contender.provider}"

    def start(self, stack: ExitStack) -> None:
        """Load the contender and warm it up, single inputs and every batch size."""
        settings, contender = self.settings, self.contender
        self.worker = WorkerProcess(
            settings.threads, settings.timeout_s, self._cores, contender.python
        )
        stack.callback(self.worker.stop)
        try:
            self.worker.ask(
                "load",
                factory=contender.factory,
                arguments=dict(contender.arguments),
                threads=settings.threads,
                cores=self._cores,
                queries=self._inputs.queries,
                documents=self._inputs.documents,
                pages=self._inputs.pages,
            )
        except WorkerFailure as failure:
            self._give_up(failure)
            return
        for case in self._batches:
            self._ask(case, self._warm_up)

    def run_turn(self, case: ScenarioCase) -> None:
        """Single stream or offline: whole passes over the inputs, this round's share of them.

        A call that does not count comes first, where two fit into the turn: other processes have
        had the caches meanwhile.
        """
        settings = self.settings
        enough = settings.offline.min_seconds if case.scenario == OFFLINE else settings.min_seconds

        def turn(case: ScenarioCase) -> None:
            bound = settings.max_seconds / settings.rounds
            if 2 * self._warm[case] <= bound * _NS_PER_S:
                self._timed(case, self._batches[case][:1], bound)
            durations = self._timed(case, self._batches[case], bound, enough / settings.rounds)
            self._calls.setdefault(case, []).append(durations)

        self._ask(case, turn)

    def single_seconds(self, kind: str) -> list[float]:
        """Single-stream durations so far; empty where it failed."""
        case = ScenarioCase(SINGLE_STREAM, kind, 1)
        rounds = [] if case in self._failures else self._calls.get(case, [])
        return [duration / _NS_PER_S for durations in rounds for duration in durations]

    def service_seconds(self, case: ScenarioCase) -> dict[int, float] | None:
        """Seconds of a call by batch size: 1, 2, 4 … and the server's largest; warms all sizes.

        Returns:
            ``None`` where one of them, or single stream, failed.
        """
        singles = sorted(self.single_seconds(case.kind))
        found: dict[int, float] = {}

        def survey(case: ScenarioCase) -> None:
            for size in range(2, case.batch_size + 1):
                is_taken = size & (size - 1) == 0 or size == case.batch_size
                calls = [self._batch(case, size)] * (_SURVEYED if is_taken else 1)
                durations = sorted(self._timed(case, calls, self.settings.max_seconds))
                if is_taken:
                    found[size] = durations[len(durations) // 2] / _NS_PER_S

        if singles:
            found[1] = singles[len(singles) // 2]
            self._ask(case, survey)
        return None if case in self._failures or not found else found

    def next_rate(self, case: ScenarioCase) -> float | None:
        """The rate that this contender's search asks for; ``None`` at its end."""
        return None if case in self._failures else self.servers[case.kind].next_rate()

    def probe(
        self,
        case: ScenarioCase,
        rate: float,
        planned: tuple[int, int],
        limit_ms: float | None,
    ) -> Probe | None:
        """Serve requests at one rate, after a call of the smallest and of the largest batch.

        Args:
            case: The server of a kind.
            rate: Requests a second.
            planned: Requests, and how many of them may be slow.
            limit_ms: The run is given up once more than those took longer; ``None``: never.

        Returns:
            ``None`` where it failed.
        """
        requests, allowed = planned
        made: list[Probe] = []

        def run(case: ScenarioCase) -> None:
            server = self.settings.server
            first = [self._batch(case, size) for size in (server.max_batch, 1)]
            self._timed(case, first, self.settings.max_seconds)
            singles = self.single_seconds(case.kind)
            reply = self.worker.ask(
                "serve",
                # An overloaded server is as slow as its calls, and here asked to finish.
                wait_seconds=requests * (1 / rate + max(singles)),
                kind=case.kind,
                rate=rate,
                requests=requests,
                seed=self.settings.seed,
                max_batch=server.max_batch,
                max_wait_ms=server.max_wait_ms,
                limit_ms=limit_ms,
                allowed_slow=allowed,
            )
            made.append(Probe(rate, requests, allowed, **reply_figures(reply)))

        self._ask(case, run)
        return made[0] if made else None

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the scenarios that are asked for; speed-ups still open."""
        rows: list[dict[str, Any]] = []
        for case in self.cases:
            if case.scenario in self.settings.run:
                rows += self._rows(case)
        for row in rows:
            row["reason"] = "; ".join(filter(None, (self.contender.note, row["reason"])))
        return rows

    def round_costs(self) -> dict[scenario_rows.Key, list[float | None]]:
        """:func:`colport.latency.scenario_rows.round_costs` by key of the row."""
        identity = (self.contender.variant, self.contender.provider)
        return {
            (*identity, case.scenario, case.kind, case.batch_size): self._round_costs(case)
            for case in self._calls
        }

    def raw(self) -> dict[str, Any]:
        """Every duration in nanoseconds, and each round's figure."""
        return {
            "variant": self.contender.variant,
            "provider": self.contender.provider,
            "calls": [
                {
                    **dataclasses.asdict(case),
                    "rounds_ns": rounds,
                    "round_costs_ns": self._round_costs(case),
                }
                for case, rounds in self._calls.items()
            ],
            "probes": [
                {"kind": kind, **dataclasses.asdict(probe)}
                for kind, run in self.servers.items()
                for probe in [*run.given, *run.probes]
            ],
        }

    def failed(self) -> list[dict[str, Any]]:
        """Reasons and tracebacks, a failed case each."""
        identity = {"variant": self.contender.variant, "provider": self.contender.provider}
        return [
            {
                **identity,
                **dataclasses.asdict(case),
                "reason": failure.reason,
                "detail": failure.detail,
            }
            for case, failure in self._failures.items()
        ]

    def _warm_up(self, case: ScenarioCase) -> None:
        """Single inputs as often as asked for, the largest batch once."""
        batches, calls, bound = [max(self._batches[case], key=len)], 1, 0.0
        if case.scenario == SINGLE_STREAM:
            batches, calls = self._batches[case], self.settings.warmup_calls
            bound = self.settings.max_seconds
        warming = list(itertools.islice(itertools.cycle(batches), calls))
        self._warm[case] = self._timed(case, warming, bound)[-1]

    def _rows(self, case: ScenarioCase) -> list[dict[str, Any]]:
        contender, failure = self.contender, self._failures.get(case)
        identity = (contender, case.scenario, case.kind, case.batch_size)
        if failure is not None:
            found = failed(failure.reason, failure.unsupported or failure.out_of_memory)
            return [scenario_rows.make_row(*identity, **found)]
        if case.scenario == SERVER:
            return scenario_rows.server_rows(contender, case.kind, self.servers[case.kind])
        rounds, sizes = self._calls[case], self._sizes(case)
        if case.scenario == SINGLE_STREAM:
            return [scenario_rows.stream_row(contender, case.kind, rounds, len(sizes))]
        return [scenario_rows.offline_row(contender, case.kind, case.batch_size, rounds, sizes)]

    def _round_costs(self, case: ScenarioCase) -> list[float | None]:
        return scenario_rows.round_costs(case.scenario, self._calls[case], self._sizes(case))

    def _sizes(self, case: ScenarioCase) -> list[int]:
        """Inputs of each call of a pass."""
        return [len(batch) for batch in self._batches[case]]

    def _pass(self, case: ScenarioCase) -> list[list[int]]:
        """The calls of one pass over all inputs of a kind, by input numbers."""
        numbers = list(range(self._count[case.kind]))
        if case.scenario == OFFLINE and self.settings.offline.sort_by_length:
            lengths = _lengths(self._inputs, case.kind)
            numbers.sort(key=lengths.__getitem__)
        size = case.batch_size
        batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        # A pass that max_seconds ends has then seen long inputs and short ones.
        random.Random(self.settings.seed).shuffle(batches)
        return batches

    def _batch(self, case: ScenarioCase, size: int) -> list[int]:
        """Numbers of so many inputs, over again where there are fewer."""
        return [number % self._count[case.kind] for number in range(size)]

    def _timed(
        self,
        case: ScenarioCase,
        batches: Sequence[Sequence[int]],
        max_seconds: float,
        seconds: float = 0.0,
    ) -> list[int]:
        return self.worker.ask(
            "calls",
            wait_seconds=max_seconds,
            kind=case.kind,
            batches=batches,
            seconds=seconds,
            max_seconds=max_seconds,
        )["durations_ns"]

    def _ask(self, case: ScenarioCase, action: Callable[[ScenarioCase], None]) -> None:
        if case in self._failures:
            return
        try:
            action(case)
        except WorkerFailure as failure:
            if failure.ended:
                self._give_up(failure)
                return
            # What a single input cannot do, no scenario can.
            single = case.scenario == SINGLE_STREAM
            same = [other for other in self.cases if single and other.kind == case.kind]
            self._failures |= dict.fromkeys([*same, case], failure)
        self.restless |= not self.worker.wait_quiet()

    def _give_up(self, failure: WorkerFailure) -> None:
        """Figures of a process that ended early are not published, whichever case ended it."""
        self._failures = {case: self._failures.get(case, failure) for case in self.cases}
        self.worker.stop(grace_s=0.0)


def reply_figures(reply: dict[str, Any]) -> dict[str, Any]:
    """What a worker's answer to ``serve`` says about a probe."""
    return {name: reply[name] for name in ("latencies_ns", "batches", "seconds")}


def _cases(kind: str, count: int, settings: ScenarioSettings) -> list[ScenarioCase]:
    """Single stream always: the target and the first rate of a server come from it."""
    cases = [ScenarioCase(SINGLE_STREAM, kind, 1)]
    if OFFLINE in settings.run:
        # A batch larger than the inputs are is one with all of them.
        sizes = dict.fromkeys(min(size, count) for size in settings.offline.batch_sizes)
        cases += [ScenarioCase(OFFLINE, kind, size) for size in sizes]
    if SERVER in settings.run:
        cases.append(ScenarioCase(SERVER, kind, settings.server.max_batch))
    return cases


def _lengths(inputs: Inputs, kind: str) -> list[int]:
    """Characters of a text, pixels of a page."""
    items = inputs.queries if kind == "query" else inputs.documents
    if kind == "query" or not inputs.pages:
        return [len(item) for item in items]
    from PIL import Image

    sizes = []
    for item in items:
        with Image.open(item) as page:
            sizes.append(page.width * page.height)
    return sizes
