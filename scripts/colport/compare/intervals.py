"""Figures that were measured in rounds: where they lie, and whether two runs differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from colport.compare.findings import Finding, changed
from colport.compare.results import Results

COVERAGE = 0.90
"""Least probability with which an interval holds the median of the rounds."""


@dataclass(frozen=True)
class Interval:
    """A median over rounds and where it lies."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def overlaps(self, other: Interval) -> bool:
        """Whether they share a value."""
        return self.low <= other.high and other.low <= self.high

    def change(self, other: Interval) -> float:
        """The larger median over the smaller one, less 1."""
        return max(self.median, other.median) / min(self.median, other.median) - 1


def median_interval(values: Sequence[float]) -> Interval | None:
    """Distribution-free interval of the median from order statistics.

    Ranks ``k`` and ``n + 1 - k`` hold the median with probability ``1 - 2 P(B < k)``, ``B``
    binomial with ``n`` and a half (David and Nagaraja, Order Statistics, 2003, section 7.1); the
    narrowest that reaches :data:`COVERAGE` is taken.

    Args:
        values: One figure a round.

    Returns:
        ``None`` for fewer than five values, whose whole range does not reach it.
    """
    ordered, n = sorted(values), len(values)
    outside = accumulate(2 * math.comb(n, k) / 2**n for k in range((n + 1) // 2))
    rank = sum(share <= 1 - COVERAGE for share in outside)
    if rank == 0:
        return None
    return Interval(float(np.median(ordered)), ordered[rank - 1], ordered[n - rank])


def moved(
    group: str,
    name: str,
    figure: str,
    pair: Sequence[Interval],
    text: str,
    threshold: float,
    more_is_better: bool,
) -> Iterator[Finding]:
    """A finding where the medians differ by more than the threshold.

    Args:
        group: Of the finding.
        name: What it is about.
        figure: Column of a table.
        pair: The old run's interval and the new one's; where they overlap it is undecided.
        text: What changed.
        threshold: Of the larger median over the smaller one, less 1.
        more_is_better: Whether the larger figure is the better one.
    """
    old, new = pair
    if old.change(new) > threshold:
        costs = [1 / one.median if more_is_better else one.median for one in pair]
        found = changed(group, name, figure, *costs, text)
        verdict = "undecided" if old.overlaps(new) else found.verdict
        yield replace(found, verdict=verdict, old=old.median, new=new.median)


def of_runs(
    group: str,
    runs: Iterable[tuple[str, str]],
    old: Results,
    new: Results,
    look: Callable[..., Iterable[Finding]],
    threshold: float,
    what: str = "",
) -> Iterator[Finding]:
    """What a look at both records of a model and provider finds.

    All whose spread is wider than their change are one line.

    Args:
        group: Of the findings, and the folder of the records.
        runs: Models and providers.
        old: A results folder.
        new: The one to judge.
        look: From a run's name, its two records and the threshold to findings.
        threshold: See :func:`moved`.
        what: What the records are needed for, in the message that says that one is missing.
    """
    for model, provider in runs:
        name, file = f"{model} {provider}", f"{group}/{model}/{provider}.json"
        before, after = (results.record(group, model, provider) for results in (old, new))
        if before is None or after is None:
            missing = (old if before is None else new).folder
            yield Finding(group, "not compared", name, f"{file}{what} is not in {missing}")
        elif "settings" in before and "settings" in after:  # else nothing was measured
            found = list(look(name, before, after, threshold))
            yield from (item for item in found if item.verdict != "undecided")
            if unsure := [item for item in found if item.verdict == "undecided"]:
                most = max(unsure, key=lambda item: item.weight)
                many = f"{len(unsure)} moved by more than {threshold:.0%}, none beyond doubt"
                text = f"{many}, most: {most.place} {most.text}"
                yield replace(most, group=group, place=name, text=text)
