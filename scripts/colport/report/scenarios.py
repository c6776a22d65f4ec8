"""Servers under load: p99 against the offered rate, a line a variant; geometry only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from colport.latency.scenario_rows import COLUMNS
from colport.latency.scenario_settings import SERVER
from colport.report import formatting as fmt
from colport.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick
from colport.report.quality import variant_legend
from colport.report.section import Material, Section

MAX_CHARTS = 24

_TEXT = ("kind", "scenario", "reason")
_PAD = 0.08
_MOST_TICKS = 6


@dataclass(frozen=True)
class LoadMark:
    """One rate that was offered: where it is drawn, and whether the target was met."""

    x: float
    y: float
    detail: str
    met: bool


@dataclass(frozen=True)
class LoadLine:
    """One variant: its marks from the lowest rate to the highest, and the path through them."""

    variant: str
    shape: str
    colour: str
    path: str
    marks: list[LoadMark]


@dataclass(frozen=True)
class LoadChart:
    """All that the template needs to draw one model's servers for one kind of input."""

    key: str
    title: str
    caption: str
    summary: str
    lines: list[LoadLine]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    target_y: float
    target: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def section(material: Material) -> Section | None:
    """Servers of every model, where the run had them."""
    legend = variant_legend(material.tables["summary"])
    marks = {entry.variant: (entry.shape, entry.colour) for entry in legend}
    loads = load_charts(material.tables.get("scenarios", empty_table()), marks)
    content = {"loads": loads, "legend": legend}
    title = "Servers under load"
    return Section("load", title, title, "scenarios.html", content) if loads else None


def read_scenarios(file: Path | str) -> pd.DataFrame:
    """``scenarios.csv`` as the page shows it."""
    types = {"batch_size": "Int64", "samples": "Int64", "slow": "Int64", "allowed_slow": "Int64"}
    types |= {"meets_target": "boolean", "best": "boolean", "stopped": "boolean"}
    return pd.read_csv(file).astype(types).fillna(dict.fromkeys(_TEXT, ""))


def empty_table() -> pd.DataFrame:
    """The table of a run without scenarios."""
    return pd.DataFrame(columns=COLUMNS)


def shown_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for their scenario, and those without figures."""
    return table[table["best"].fillna(False).astype(bool) | (table["status"] != "ok")]


def load_charts(
    table: pd.DataFrame, marks: Mapping[str, tuple[str, str]]
) -> dict[str, list[LoadChart]]:
    """Charts by model: a chart a provider and kind of input.

    Args:
        table: ``scenarios.csv``.
        marks: Shape and colour of each variant; others are not drawn.
    """
    drawn = table[(table["scenario"] == SERVER) & (table["status"] == "ok")]
    drawn = drawn[drawn["variant"].isin(list(marks))]
    charts: dict[str, list[LoadChart]] = {}
    # PyTorch's provider has another name, and stands beside each of a run: told by the target.
    groups = list(drawn.groupby(["model", "kind", "target_ms"], sort=False))
    for number, ((model, kind, target), rows) in enumerate(groups[:MAX_CHARTS]):
        chart = _chart(f"load-{number}", str(model), str(kind), float(target), rows, marks)
        charts.setdefault(str(model), []).append(chart)
    return charts


def _chart(
    key: str,
    model: str,
    kind: str,
    target_ms: float,
    rows: pd.DataFrame,
    marks: Mapping[str, tuple[str, str]],
) -> LoadChart:
    place_x, x_ticks = _log_scale(rows["rate"].tolist(), LEFT, WIDTH - RIGHT)
    heights = [*rows["p99_ms"].tolist(), target_ms]
    place_y, y_ticks = _log_scale(heights, HEIGHT - BOTTOM, TOP)
    lines = []
    for variant in marks:
        own = rows[rows["variant"] == variant].sort_values("rate")
        if len(own):
            lines.append(_line(variant, *marks[variant], own, place_x, place_y))
    best = rows[rows["highest_rate"].notna()].sort_values("highest_rate", ascending=False)
    found = [
        f"{row['variant']} {fmt.significant(row['highest_rate'])}"
        for row in best.to_dict("records")
    ]
    target = fmt.milliseconds(target_ms)
    return LoadChart(
        key=key,
        title=f"p99 against offered rate, {model}, {kind}",
        caption=f"{kind.capitalize()} requests, target p99 of {target}",
        summary=f"Highest rate a second within the target: {', '.join(found) or 'none'}.",
        lines=lines,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        target_y=place_y(target_ms),
        target=f"target {target}",
    )


def _line(
    variant: str,
    shape: str,
    colour: str,
    rows: pd.DataFrame,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
) -> LoadLine:
    marks = []
    for row in rows.to_dict("records"):
        met = not fmt.is_missing(row["meets_target"]) and bool(row["meets_target"])
        details = [
            f"{variant} on {fmt.provider(row['provider'])}",
            f"{fmt.significant(row['rate'])} requests a second",
            f"p99 {fmt.milliseconds(row['p99_ms'])}",
            f"mean batch {fmt.significant(row['mean_batch'])}",
            "target met" if met else "target not met",
        ]
        marks.append(
            LoadMark(place_x(row["rate"]), place_y(row["p99_ms"]), "; ".join(details), met)
        )
    path = "M" + "L".join(f"{mark.x:.1f} {mark.y:.1f}" for mark in marks)
    return LoadLine(variant, shape, colour, path, marks)


def _log_scale(
    values: Sequence[float], start: float, end: float
) -> tuple[Callable[[float], float], list[Tick]]:
    """A logarithmic axis with a margin, and round numbers on it."""
    low, high = math.log10(min(values)) - _PAD, math.log10(max(values)) + _PAD

    def place(value: float) -> float:
        return start + (math.log10(value) - low) / (high - low) * (end - start)

    for mantissas in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        round_ones = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
        inside = [value for value in round_ones if low <= math.log10(value) <= high]
        if len(inside) <= _MOST_TICKS:
            break
    return place, [Tick(place(value), f"{value:,.6g}") for value in inside]
