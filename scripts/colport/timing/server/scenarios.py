"""MLPerf's scenarios: single stream, offline and server, PyTorch beside every variant.

Source: MLPerf Inference Rules, "Scenarios", and Reddi et al., "MLPerf Inference Benchmark", 2020
(arXiv:1911.02549). Runs are shorter than MLPerf's, and load is made where it is served: in the
contender's own process, so that nothing else uses the processor.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from colport.base.names import REFERENCE_VARIANT
from colport.timing.runner import Run, print_progress
from colport.timing.server import cases as scenario_cases
from colport.timing.server import rows as scenario_rows
from colport.timing.server.cases import ScenarioCase
from colport.timing.server.lane import ScenarioLane
from colport.timing.server.settings import SERVER, SINGLE_STREAM, ScenarioSettings
from colport.timing.settings import Contender, Inputs


def measure(
    contenders: Sequence[Contender],
    inputs: Inputs,
    settings: ScenarioSettings,
    progress: Callable[[str], None] = print_progress,
) -> dict[str, Any]:
    """Run the scenarios, the contenders in turns.

    Each contender has a process of its own, and one works at a time, as in
    :func:`colport.timing.measure`. Single stream is always measured: the others start from it.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model.
        inputs: What they encode.
        settings: Which scenarios, and how long.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (those of ``scenarios.csv``), ``samples``
        (every duration in nanoseconds), ``targets`` (milliseconds by kind), ``settings`` and, as
        in :func:`colport.timing.measure`, ``failures``, ``environment``, ``noise``, ``cores`` and
        ``meters``. Who raises, ends, hangs or runs out of memory fails as there; a server that is
        killed or runs out of memory leaves what was measured before.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    cases = scenario_cases.cases(inputs, settings)
    timing = scenario_cases.timing(SINGLE_STREAM, settings)
    lane = partial(ScenarioLane, settings)
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
