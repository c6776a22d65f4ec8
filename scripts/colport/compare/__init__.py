"""Two results folders side by side: what became slower, larger or worse beyond noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from colport.base.names import REFERENCE_VARIANT
from colport.compare import latency, scenarios, stages
from colport.compare.findings import Finding, ranked
from colport.compare.results import Results, common, is_number

THRESHOLD = 0.05
"""Share of a speed-up or of a time that may be lost before it counts, noise apart."""

__all__ = ["THRESHOLD", "Finding", "Repeat", "compare", "repeatability"]


@dataclass(frozen=True)
class Repeat:
    """Differences of the speed-ups that two runs give for the same rows.

    Attributes:
        rows: Rows of ``latency.csv`` with a speed-up in both, PyTorch's own left out.
        median: The median over them of the larger speed-up over the smaller one, less 1.
        largest: The largest.
    """

    rows: int
    median: float
    largest: float

    def __str__(self) -> str:
        return (
            f"speed-ups of {self.rows} rows differ by {self.median:.1%} at the median, "
            f"{self.largest:.1%} at most"
        )


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
    pairs = [
        [row["speedup_vs_pytorch"] for row in rows]
        for rows in common(Results(old), Results(new), "latency")
        if rows[0]["variant"] != REFERENCE_VARIANT
    ]
    changes = [max(pair) / min(pair) - 1 for pair in pairs if all(map(is_number, pair))]
    return Repeat(len(changes), median(changes), max(changes)) if changes else None
