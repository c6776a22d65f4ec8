"""MLPerf's scenarios: single stream, offline and server, PyTorch beside every variant.

Source: MLPerf Inference Rules, "Scenarios", and Reddi et al., "MLPerf Inference Benchmark", 2020
(arXiv:1911.02549). Runs are shorter than MLPerf's, and load is made where it is served: in the
contender's own process, so that nothing else uses the processor.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from colport.base.names import REFERENCE_VARIANT
from colport.timing.rounds import Lane
from colport.timing.runner import Progress, Run
from colport.timing.server import rows as scenario_rows
from colport.timing.server import search
from colport.timing.server.arrivals import Batching
from colport.timing.server.settings import (
    OFFLINE,
    SERVER,
    SINGLE_STREAM,
    ScenarioCase,
    ScenarioSettings,
)
from colport.timing.settings import Contender, Inputs, LatencySettings
from colport.timing.statistics import NS_PER_S
from colport.timing.worker.process import WorkerFailure
from colport.timing.worker.worker import page_pixels

_SURVEYED = 3


def measure(
    contenders: Sequence[Contender], inputs: Inputs, settings: ScenarioSettings, progress: Progress
) -> dict[str, Any]:
    """Run the scenarios, the contenders in turns.

    Each contender has a process of its own, and one works at a time, as in
    :func:`colport.timing.runner.measure`. Single stream is always measured: the others start from
    it.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model.
        inputs: What they encode.
        settings: Which scenarios, and how long.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (those of ``scenarios.csv``), ``samples``
        (every duration in nanoseconds), ``targets`` (milliseconds by kind), ``settings`` and, as
        in :func:`colport.timing.runner.measure`, ``failures``, ``environment``, ``noise``,
        ``cores`` and ``meters``. Who raises, ends, hangs or runs out of memory fails as there; a
        server that is killed or runs out of memory leaves what was measured before.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    cases = settings.cases(inputs)
    timing = settings.timing(SINGLE_STREAM)
    lane = partial(ScenarioLane, scenarios=settings)
    with Run(contenders, cases, inputs, timing, progress, lane) as run:
        run.load()
        run.take_turns([case for case in cases if case.scenario != SERVER])
        servers = [case for case in cases if case.scenario == SERVER]
        targets = {case.kind: _target(run.lanes, case.kind, settings) for case in servers}
        for case in servers:
            _serve(run, case, targets[case.kind], settings)
    rows = [row for lane in run.lanes for row in lane.rows()]
    samples = [lane.samples() for lane in run.lanes]
    scenario_rows.mark_best(rows, scenario_rows.costs_of(samples))
    return {
        "rows": rows,
        "samples": samples,
        "targets": targets,
        "settings": dataclasses.asdict(settings),
        **run.record(),
    }


def _target(lanes: Sequence[ScenarioLane], kind: str, settings: ScenarioSettings) -> float | None:
    """Milliseconds; ``None`` where no contender ran."""
    fixed = settings.server.p99_ms.get(kind)
    if fixed is not None:
        return fixed
    ran = [lane for lane in lanes if lane.single_seconds(kind)]
    ran.sort(key=lambda lane: lane.contender.variant != REFERENCE_VARIANT)
    if not ran:
        return None
    return settings.server.p99_multiple * 1e3 * float(np.median(ran[0].single_seconds(kind)))


def _serve(
    run: Run, case: ScenarioCase, target_ms: float | None, settings: ScenarioSettings
) -> None:
    """Given rates, then the search for the highest; the contenders take turns rate by rate."""
    generator = random.Random(f"{settings.seed} {case.kind}")
    running = run.lanes
    for lane in running:
        lane.open_server(case, target_ms)
    for rate in settings.server.rates.get(case.kind, ()):
        for lane in generator.sample(running, len(running)):
            run.announce()
            lane.probe(case, rate, is_given=True)
    while running := [lane for lane in running if lane.next_rate(case) is not None]:
        for lane in generator.sample(running, len(running)):
            rate = lane.next_rate(case)
            run.announce(f"server, {case.kind}: {lane.name} at {rate:.4g} a second")
            lane.probe(case, rate)


@dataclasses.dataclass(eq=False)
class ScenarioLane(Lane):
    """A lane whose cases are scenarios.

    Attributes:
        scenarios: Which, and for how long.
        servers: A search for each kind whose server could be started.
    """

    module = "colport.timing.server.serving"

    scenarios: ScenarioSettings = dataclasses.field(kw_only=True)
    servers: dict[str, search.ServerRun] = dataclasses.field(default_factory=dict, init=False)

    def batches(self, case: ScenarioCase) -> list[list[int]]:
        """A server's largest call, whose requests bring others; else a pass over all inputs."""
        if case.scenario == SERVER:
            return super().batches(case)
        items, size = self.inputs.of(case.kind), case.batch_size
        numbers = list(range(len(items)))
        if case.scenario == OFFLINE and self.scenarios.offline.sort_by_length:
            is_page = self.inputs.pages and case.kind == "document"
            numbers.sort(key=lambda number: (page_pixels if is_page else len)(items[number]))
        batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        # A pass that max_seconds ends has then seen long inputs and short ones.
        random.Random(self.scenarios.seed).shuffle(batches)
        return batches

    def timing(self, case: ScenarioCase) -> LatencySettings:
        """See :meth:`colport.timing.server.settings.ScenarioSettings.timing`."""
        return self.scenarios.timing(case.scenario)

    def single_seconds(self, kind: str) -> list[float]:
        """Single-stream durations; empty where it failed."""
        record = self.records[ScenarioCase(kind, 1, SINGLE_STREAM)]
        samples = record.samples() if record.failure is None else []
        return [duration / NS_PER_S for duration in samples]

    def open_server(self, case: ScenarioCase, target_ms: float) -> None:
        """Start the search for the highest rate where a simulation of its calls has it."""
        single = self.records[ScenarioCase(case.kind, 1, SINGLE_STREAM)]
        # What a single input cannot do, no server can.
        self.records[case].failure = self.records[case].failure or single.failure
        self._ask_case(case, lambda case: self._open(case, target_ms))
        self._rest()

    def next_rate(self, case: ScenarioCase) -> float | None:
        """The rate that the search asks for; ``None`` at its end, or where the server failed."""
        is_open = self.records[case].failure is None
        return self.servers[case.kind].next_rate() if is_open else None

    def probe(self, case: ScenarioCase, rate: float, is_given: bool = False) -> None:
        """Serve requests at one rate, after a call of the largest and of the smallest batch.

        Args:
            case: The server of a kind.
            rate: Requests a second.
            is_given: The rate is measured to its end; else the run is given up once it has missed
                the target, and the search takes note of it.
        """
        self._ask_case(case, lambda case: self._probe(case, rate, is_given))
        self._rest()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the scenarios that are asked for; speed-ups still open."""
        rows: list[dict[str, Any]] = []
        for case, record in self.records.items():
            if case.scenario not in self.scenarios.run:
                continue
            if case.scenario == SERVER and record.failure is None:
                server = self.servers[case.kind]
                rows += scenario_rows.server_rows(self.contender, case.kind, server, self.remark())
            else:
                given = (case.scenario, record.rounds_ns, self.sizes(case))
                rows.append(scenario_rows.timed_row(self.row(case), *given))
        return rows

    def samples(self) -> dict[str, Any]:
        """Every duration in nanoseconds, and each round's figure."""
        return {
            **self.identity(),
            "calls": [
                {
                    **dataclasses.asdict(case),
                    "rounds_ns": record.rounds_ns,
                    "round_costs_ns": scenario_rows.round_costs(
                        case.scenario, record.rounds_ns, self.sizes(case)
                    ),
                }
                for case, record in self.records.items()
                if record.samples()
            ],
            "probes": [
                {"kind": kind, **dataclasses.asdict(probe)}
                for kind, run in self.servers.items()
                for probe in [*run.given, *run.probes]
            ],
        }

    def _open(self, case: ScenarioCase, target_ms: float) -> None:
        settings = self.scenarios.server
        endless = dataclasses.replace(settings, max_seconds=math.inf)
        guess = search.predict_highest_rate(
            self._service_seconds(case),
            self.single_seconds(case.kind),
            target_ms / 1e3,
            lambda rate: search.plan_probe(rate, target_ms, endless),
            Batching(settings.max_batch, settings.max_wait_ms / 1e3),
            self.scenarios.seed,
        )
        rates = search.RateSearch(guess, settings.resolution, settings.max_probes)
        self.servers[case.kind] = search.ServerRun(target_ms, rates, settings)

    def _service_seconds(self, case: ScenarioCase) -> Mapping[int, float]:
        """Seconds of a call by batch size: 1, 2, 4 … and the server's largest; warms all sizes."""
        singles = sorted(self.single_seconds(case.kind))
        found = {1: singles[len(singles) // 2]}
        for size in range(2, case.batch_size + 1):
            is_taken = size & (size - 1) == 0 or size == case.batch_size
            durations = sorted(self._timed(case, [size] * (_SURVEYED if is_taken else 1)))
            if is_taken:
                found[size] = durations[len(durations) // 2] / NS_PER_S
        return found

    def _timed(self, case: ScenarioCase, sizes: list[int]) -> list[int]:
        """Durations of calls with so many first inputs."""
        return self._ask(
            "block",
            case,
            wait_seconds=self.settings.max_seconds,
            batches=[self.inputs.first(case.kind, size) for size in sizes],
            **{"settle": 0, "calls": 1, "seconds": 0.0, "max_seconds": self.settings.max_seconds},
        )["durations_ns"]

    def _probe(self, case: ScenarioCase, rate: float, is_given: bool) -> None:
        run = self.servers[case.kind]
        settings, target_ms = run.settings, run.target_ms
        requests, allowed = search.plan_given(rate, target_ms, settings)
        self._timed(case, [settings.max_batch, 1])
        reply = self._ask(
            "serve",
            case,
            # An overloaded server is as slow as its calls, and here asked to finish.
            wait_seconds=requests * (1 / rate + max(self.single_seconds(case.kind))),
            rate=rate,
            requests=requests,
            seed=self.scenarios.seed,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
            limit_ms=target_ms,
            allowed_slow=requests if is_given else allowed,
        )
        served = {name: reply[name] for name in ("latencies_ns", "batches", "seconds")}
        probe = search.Probe(rate, requests, allowed, **served)
        if is_given:
            run.given.append(probe)
        else:
            run.record(probe)

    def _limit(self, case: ScenarioCase, failure: WorkerFailure) -> None:
        """What was measured before stays, as a server comes last and draws other inputs."""
        if case.scenario != SERVER:
            super()._limit(case, failure)
        else:
            cause = "out of memory" if failure.out_of_memory else failure.reason
            self.records[case].failure = failure.as_limit(f"{cause} as a server")
