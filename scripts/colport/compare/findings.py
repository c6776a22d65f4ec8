"""One difference between two runs, and how differences are ordered and printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GROUPS = ("rows", "parity", "retrieval", "latency", "scenarios", "size", "export")
VERDICTS = ("worse", "undecided", "not compared", "better", "new")


@dataclass(frozen=True)
class Finding:
    """One line of a comparison.

    Attributes:
        group: One of :data:`GROUPS`.
        verdict: One of :data:`VERDICTS`.
        place: What it is about, as ``model variant provider``.
        text: What changed, one phrase.
        figure: Column of a table, or ``""``.
        old: Its value in the old run.
        new: Its value in the new one.
        weight: Orders findings of one verdict; the largest first.
    """

    group: str
    verdict: str
    place: str
    text: str
    figure: str = ""
    old: float | None = None
    new: float | None = None
    weight: float = 0.0


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """By group, then by verdict, worse before the others, then by weight."""

    def order(item: Finding) -> tuple[int, int, float, str]:
        group, verdict = GROUPS.index(item.group), VERDICTS.index(item.verdict)
        return group, verdict, -item.weight, item.place

    return sorted(findings, key=order)


def changed(group: str, place: str, figure: str, old: float, new: float, text: str) -> Finding:
    """A figure of which less is better, and its change."""
    verdict = "worse" if new > old else "better"
    weight = abs(new - old) / abs(old) if old else float("inf")
    return Finding(group, verdict, place, text, figure, old, new, weight)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: how many of each."""
    counts = Counter(item.verdict for item in findings)
    if not findings:
        return "nothing differs beyond noise"
    worse = f"{counts['worse']} worse" if counts["worse"] else "nothing worse"
    others = (f"{counts[name]} {name}" for name in VERDICTS[1:] if counts[name])
    return ", ".join([worse, *others])


def lines(findings: Sequence[Finding]) -> list[str]:
    """Plain text, one line each, under the name of its group."""
    return [
        line
        for group in GROUPS
        if (members := [item for item in findings if item.group == group])
        for line in (group, *(f"  {item.verdict:<12}  {_sentence(item)}" for item in members))
    ]


def markdown(findings: Sequence[Finding]) -> str:
    """A table for a pull request, with the verdict above it."""
    rows = [
        f"| {item.group} | {item.verdict} | {_escaped(item.place)} | {_escaped(item.text)} |"
        for item in findings
    ]
    table = ["", "| stage | verdict | row | change |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([f"**{verdict(findings)}**", *table, ""])


def _sentence(item: Finding) -> str:
    return f"{item.place}: {item.text}" if item.place else item.text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
