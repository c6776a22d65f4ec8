"""A model on one provider as single stream, offline and server: PyTorch and every variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from colport.base.names import KINDS
from colport.measure.entrants import Contest
from colport.timing.server import scenarios
from colport.timing.server.settings import OFFLINE, SERVER, SINGLE_STREAM, ScenarioSettings


def compare(
    contest: Contest, settings: Mapping[str, Any], threads: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Run the scenarios.

    Args:
        contest: Who, on what.
        settings: The ``scenarios`` section of the config.
        threads: Threads of each contender.
        report: Called with the progress.

    Returns:
        The stage's record; rows are ``unsupported`` where a known limit prevents a contender.
    """
    chosen = ScenarioSettings(**{**settings, "threads": threads})
    sizes = {SINGLE_STREAM: 1, OFFLINE: max(chosen.offline.batch_sizes)}
    sizes[SERVER] = chosen.server.max_batch
    return contest.run(
        lambda everyone, inputs: scenarios.measure(everyone, inputs, chosen, report),
        "scenarios",
        [
            {"kind": kind, "batch_size": sizes[name], "scenario": name, "best": False}
            for kind in KINDS
            for name in chosen.run
        ],
        count=chosen.inputs,
        threads=threads,
    )
