"""MLPerf's scenarios: single stream, offline and server, PyTorch beside every variant.

Source: MLPerf Inference Rules, "Scenarios", and Reddi et al., "MLPerf Inference Benchmark", 2020
(arXiv:1911.02549). Runs are shorter than MLPerf's, and load is made where it is served: in the
contender's own process, so that nothing else uses the processor.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from colport import environment
from colport.latency import cores, noise, scenario_rows
from colport.latency.arrivals import Batching
from colport.latency.probes import ServerRun, plan_given, plan_probe
from colport.latency.runner import check, print_progress
from colport.latency.scenario_lane import Lane, ScenarioCase
from colport.latency.scenario_settings import SERVER, ScenarioSettings
from colport.latency.schedule import turns
from colport.latency.search import RateSearch, predict_highest_rate
from colport.latency.settings import REFERENCE_VARIANT, Contender, Inputs


def measure(
    contenders: Sequence[Contender],
    inputs: Inputs,
    settings: ScenarioSettings,
    progress: Callable[[str], None] = print_progress,
) -> dict[str, Any]:
    """Run the scenarios, the contenders in turns.

    Each contender has a process of its own, and one works at a time, as in
    :func:`colport.latency.measure`. Single stream is always measured: the others start from it.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model.
        inputs: What they encode.
        settings: Which scenarios, and how long.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (:data:`colport.latency.scenario_rows.COLUMNS`), ``samples``
        (every duration in nanoseconds), ``failures``, ``targets`` (milliseconds by kind),
        ``settings``, ``environment``, ``noise`` and ``cores`` (those pinned to). A contender that
        raises in a scenario fails there, one whose process ends or hangs fails in all; the others
        go on.

    Raises:
        ConfigError: The contenders do not belong together, or there is nothing to encode.
    """
    check(contenders, inputs.kinds(), settings.threads)
    pinned = cores.choose(settings.affinity, settings.threads, cores.usable())
    lanes = [Lane(contender, inputs, settings, pinned) for contender in contenders]
    watch = noise.Watch(environment.usable_cores(), settings.quiet_wait_s)
    targets: dict[str, float] = {}
    with ExitStack() as stack:
        for lane in lanes:
            progress(f"loading {lane.name}")
            watch.wait_for_quiet()
            lane.start(stack)
        cases = [case for case in lanes[0].cases if case.scenario != SERVER]
        for number, case, order in turns(len(lanes), cases, settings.rounds, settings.seed):
            progress(f"round {number + 1} of {settings.rounds}: {case}")
            watch.wait_for_quiet()
            for index in order:
                lanes[index].run_turn(case)
        for case in lanes[0].cases:
            if case.scenario == SERVER:
                targets[case.kind] = _target(lanes, case.kind, settings)
                _serve(lanes, case, targets[case.kind], watch, progress)
        for lane in lanes:
            lane.worker.close_requests()
    return {**_payload(lanes, targets, settings, watch.record()), "cores": pinned}


def _target(lanes: Sequence[Lane], kind: str, settings: ScenarioSettings) -> float | None:
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
    lanes: Sequence[Lane],
    case: ScenarioCase,
    target_ms: float | None,
    watch: noise.Watch,
    progress: Callable[[str], None],
) -> None:
    """Given rates, then the search for the highest; the contenders take turns rate by rate."""
    generator = random.Random(f"{lanes[0].settings.seed} {case.kind}")
    running = [lane for lane in lanes if target_ms is not None and _open(lane, case, target_ms)]
    for rate in lanes[0].settings.server.rates.get(case.kind, ()):
        for lane in generator.sample(running, len(running)):
            watch.wait_for_quiet()
            planned = plan_given(rate, target_ms, lane.settings.server)
            if probe := lane.probe(case, rate, planned, limit_ms=None):
                lane.servers[case.kind].given.append(probe)
    while running := [lane for lane in running if lane.next_rate(case) is not None]:
        for lane in generator.sample(running, len(running)):
            rate = lane.next_rate(case)
            progress(f"{case}: {lane.name} at {rate:.4g} a second")
            watch.wait_for_quiet()
            planned = lane.servers[case.kind].plan(rate)
            if probe := lane.probe(case, rate, planned, limit_ms=target_ms):
                lane.servers[case.kind].record(probe)


def _open(lane: Lane, case: ScenarioCase, target_ms: float) -> bool:
    """Start a contender's search at the rate that a simulation of its calls sustains."""
    settings, server = lane.settings, lane.settings.server
    service = lane.service_seconds(case)
    if service is None:
        return False
    unbounded = dataclasses.replace(server, max_seconds=math.inf)
    guess = predict_highest_rate(
        service,
        lane.single_seconds(case.kind),
        target_ms / 1e3,
        lambda rate: plan_probe(rate, target_ms, unbounded),
        Batching(server.max_batch, server.max_wait_ms / 1e3),
        settings.seed,
    )
    search = RateSearch(guess, server.resolution, server.max_probes)
    lane.servers[case.kind] = ServerRun(target_ms, search, server)
    return True


def _payload(
    lanes: Sequence[Lane],
    targets: Mapping[str, float | None],
    settings: ScenarioSettings,
    noise_record: Mapping[str, Any],
) -> dict[str, Any]:
    rows = [row for lane in lanes for row in lane.rows()]
    costs = {key: found for lane in lanes for key, found in lane.round_costs().items()}
    scenario_rows.mark_best(rows, costs)
    restless = [f"{lane.name} kept using the CPU between turns" for lane in lanes if lane.restless]
    reasons = [*noise_record["reasons"], *restless]
    return {
        "rows": rows,
        "samples": [lane.raw() for lane in lanes],
        "failures": [failure for lane in lanes for failure in lane.failed()],
        "targets": dict(targets),
        "settings": dataclasses.asdict(settings),
        "environment": environment.describe(),
        "noise": {**noise_record, "noisy": bool(reasons), "reasons": reasons},
    }
