"""Whether two runs on one machine tell the same: by how much their speed-ups differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from colport.base.names import REFERENCE_VARIANT
from colport.compare.results import Results, common, is_number


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


def repeat(old: Results, new: Results) -> Repeat | None:
    """How well the second run repeats the first; ``None`` without a row in common."""
    pairs = [
        (before["speedup_vs_pytorch"], after["speedup_vs_pytorch"])
        for before, after in common(old, new, "latency")
        if before["variant"] != REFERENCE_VARIANT
    ]
    changes = [
        math.exp(abs(math.log(after / before))) - 1
        for before, after in pairs
        if is_number(before) and is_number(after)
    ]
    return Repeat(len(changes), median(changes), max(changes)) if changes else None
