"""A model on one provider as single stream, offline and server: PyTorch and every variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from colport.measure.entrants import Contest
from colport.timing.server import rows, scenarios
from colport.timing.server.settings import ScenarioSettings


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
    chosen = ScenarioSettings.from_config(settings, threads)
    return contest.run(
        lambda everyone, inputs: scenarios.measure(everyone, inputs, chosen, report),
        lambda *names: rows.unsupported_rows(*names[:3], chosen, names[3]),
        count=chosen.inputs,
        threads=threads,
    )
