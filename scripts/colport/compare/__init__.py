"""Two results folders side by side: what became slower, larger or worse beyond noise."""

from __future__ import annotations

from pathlib import Path

from colport.compare import latency, scenarios, stages
from colport.compare.findings import Finding, ranked
from colport.compare.repeat import Repeat, repeat
from colport.compare.results import Results

THRESHOLD = 0.05
"""Share of a speed-up or of a time that may be lost before it counts, noise apart."""

__all__ = ["THRESHOLD", "Finding", "Repeat", "compare", "repeatability"]


def compare(old: Path | str, new: Path | str, threshold: float = THRESHOLD) -> list[Finding]:
    """Every difference between two runs that is beyond noise, and what cannot be told.

    Args:
        old: A results folder.
        new: The one to judge.
        threshold: Relative change of a speed-up, or of milliseconds, that counts.

    Returns:
        Findings by group, in each the worst first.

    Raises:
        ArtifactError: A table is missing, or a file is damaged or of another schema version.
    """
    before, after = Results(old), Results(new)
    return ranked(
        [
            *stages.presence(before, after),
            *stages.parity(before, after),
            *stages.retrieval(before, after),
            *latency.latency(before, after, threshold),
            *scenarios.scenarios(before, after, threshold),
            *stages.size(before, after),
            *stages.export_cost(before, after),
        ]
    )


def repeatability(old: Path | str, new: Path | str) -> Repeat | None:
    """By how much the speed-ups of two runs differ, noise included.

    Args:
        old: A results folder.
        new: One of the same machine and code.

    Returns:
        ``None`` where no row has a speed-up in both.

    Raises:
        ArtifactError: A table is missing, or a file is damaged or of another schema version.
    """
    return repeat(Results(old), Results(new))
