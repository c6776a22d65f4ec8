"""One latency run: start the workers, let them take turns, gather samples and rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from colport import environment
from colport.errors import ConfigError
from colport.latency import cores, meters, noise, statistics
from colport.latency.rounds import Lane
from colport.latency.schedule import turns
from colport.latency.settings import (
    REFERENCE_VARIANT,
    Case,
    Contender,
    Inputs,
    LatencySettings,
)

Progress = Callable[[str], None]
_PARTS_ROUNDS = 1


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
    All contenders stay in memory until the end. Preprocessing and the model alone are timed after
    the rounds, so that no sample of a whole call is disturbed.

    Args:
        contenders: PyTorch (``variant="pytorch"``) and every variant of one model; without
            PyTorch the speed-ups are ``None``.
        inputs: What they encode.
        settings: How long and how often.
        progress: Called with one line for each step.

    Returns:
        A JSON-ready record: ``rows`` (:data:`colport.latency.statistics.COLUMNS`, in the order of
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
    cases = settings.cases(inputs)
    check(contenders, cases, settings.threads)
    allowed = cores.usable()
    pinned = cores.choose(settings.affinity, settings.threads, allowed)
    energy, machine = meters.EnergyMeter(), meters.Machine(pinned or sorted(allowed))
    watch = noise.Watch(environment.usable_cores(), settings.quiet_wait_s)
    with ExitStack() as stack:
        lanes = [
            Lane(contender, cases, inputs, settings, stack, pinned, energy)
            for contender in contenders
        ]
        for lane in lanes if settings.cold_load else ():
            progress(f"loading {lane.name} from the disk")
            watch.wait_for_quiet()
            lane.load_cold()
        for lane in lanes:
            progress(f"loading {lane.name}")
            watch.wait_for_quiet()
            lane.start()
        last_round = None
        for number, case, order in turns(len(lanes), cases, settings.rounds, settings.seed):
            if number != last_round:
                progress(f"round {number + 1} of {settings.rounds}")
                machine.read()
                last_round = number
            if settings.precision and all(lane.is_precise(case) for lane in lanes):
                continue
            watch.wait_for_quiet()
            for index in order:
                lanes[index].run_block(number, case)
        machine.read()
        progress("preprocessing and graph apart")
        for _, case, order in turns(len(lanes), cases, _PARTS_ROUNDS, settings.seed):
            watch.wait_for_quiet()
            for index in order:
                lanes[index].run_parts(case)
        for lane in lanes:
            lane.close_requests()
    found = _with_more(watch.record(), lanes, machine)
    payload = _payload(lanes, cases, inputs, settings, found)
    return {**payload, "cores": pinned, "meters": machine.record(energy)}


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


def _with_more(
    record: dict[str, Any], lanes: Sequence[Lane], machine: meters.Machine
) -> dict[str, Any]:
    reasons = [
        *record["reasons"],
        *machine.throttled(),
        *(f"{lane.name} kept using the CPU between its turns" for lane in lanes if lane.restless),
    ]
    return {**record, "noisy": bool(reasons), "reasons": reasons}


def _payload(
    lanes: Sequence[Lane],
    cases: Sequence[Case],
    inputs: Inputs,
    settings: LatencySettings,
    noise_record: Mapping[str, Any],
) -> dict[str, Any]:
    pairs = [(lane, case) for lane in lanes for case in cases]
    rows = [lane.row(case) for lane, case in pairs]
    records = [lane.records[case] for lane, case in pairs]
    statistics.add_speedups(rows, [record.rounds for record in records])
    statistics.add_cosines(rows, [record.outputs for record in records])
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
