"""Latency of a model on one provider: PyTorch in each form and every variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from colport.base.names import CAPTION_KINDS
from colport.measure.entrants import Contest
from colport.timing.runner import measure
from colport.timing.settings import LatencySettings


def compare(
    contest: Contest, settings: Mapping[str, Any], threads: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Time batches of every size.

    Args:
        contest: Who, on what.
        settings: The ``latency`` section of the config; its ``pytorch`` names
            :data:`colport.measure.entrants.PYTORCH`.
        threads: Threads of each contender, unless ``settings`` say otherwise.
        report: Called with the progress.

    Returns:
        The stage's record; rows are ``unsupported`` where a known limit prevents a contender.
    """
    own = {name: value for name, value in settings.items() if name != "pytorch"}
    chosen = LatencySettings(**{"threads": threads, **own})
    is_captioner = contest.kinds == CAPTION_KINDS
    return contest.run(
        lambda everyone, inputs: measure(everyone, inputs, chosen, report),
        "latency",
        [
            {"kind": kind, "batch_size": size}
            for kind in contest.kinds
            for size in chosen.batch_sizes
        ],
        count=max(chosen.batch_sizes),
        threads=chosen.threads,
        pytorch=settings.get("pytorch", ()),
        tokens=chosen.caption_tokens if is_captioner else None,
    )
