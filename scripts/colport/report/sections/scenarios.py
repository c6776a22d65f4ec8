"""The section "Servers under load": p99 against the offered rate, a line a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.base.names import REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import Chart, ChartTable, LegendEntry, legend
from colport.report.charts.drawing import Drawing
from colport.report.charts.frame import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_axes
from colport.report.charts.marks import HOLLOW
from colport.report.charts.scales import Scale, logarithmic
from colport.report.section import ChartGroup, Material, Section, chart_section
from colport.timing.server.settings import SERVER

MAX_CHARTS = 24

_SHOWN = (
    *("variant", "provider", "kind", "rate", "p99_ms", "mean_batch", "meets_target"),
    *("highest_rate", "samples"),
)
_INTRO = (
    "Requests arrive at random (Poisson), whether or not the server keeps up; those that wait "
    "share a call. A line is a variant's 99th percentile of latency, from scheduled arrival to "
    "completion, at the rates that were offered: lower and further right is better. A hollow mark "
    "missed the target, the dashes; most of those rates were given up early. The highest rate of "
    "each lies between its last filled mark and its first hollow one."
)


def section(material: Material) -> Section | None:
    """Servers of every model, where the run had them."""
    marks = legend(str(name) for name in material.tables["summary"]["variant"])
    loads = load_charts(material.table("scenarios"), marks)
    groups = [ChartGroup(model, charts) for model, charts in loads.items()]
    title = "Servers under load"
    return chart_section(
        "load", title, title, _INTRO, groups, marks.values(), (("hollow: target missed", HOLLOW),)
    )


def shown_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for their scenario, and those without figures."""
    return table[table["best"].fillna(False).astype(bool) | (table["status"] != "ok")]


def load_charts(table: pd.DataFrame, marks: Mapping[str, LegendEntry]) -> dict[str, list[Chart]]:
    """Charts by model: a chart a provider and kind of input.

    Args:
        table: ``scenarios.csv``.
        marks: Shape and colour of each variant; others are not drawn.
    """
    # PyTorch begins the rows of each run: its own provider's name does not say which run it is.
    reference = table["variant"] == REFERENCE_VARIANT
    runs = table.assign(run=(reference & ~reference.shift(fill_value=False)).cumsum())
    drawn = runs[(runs["scenario"] == SERVER) & (runs["status"] == "ok")]
    drawn = drawn[drawn["variant"].isin(list(marks))]
    charts: dict[str, list[Chart]] = {}
    groups = list(drawn.groupby(["model", "run", "kind"], sort=False))
    for number, ((model, _, kind), rows) in enumerate(groups[:MAX_CHARTS]):
        chart = _chart(f"load-{number}", str(model), str(kind), rows, marks)
        charts.setdefault(str(model), []).append(chart)
    return charts


def _chart(
    key: str,
    model: str,
    kind: str,
    rows: pd.DataFrame,
    marks: Mapping[str, LegendEntry],
) -> Chart:
    target_ms, provider = rows["target_ms"].iloc[0], fmt.provider(rows["provider"].iloc[-1])
    heights = [*rows["p99_ms"], target_ms]
    x_scale = logarithmic(rows["rate"].min(), rows["rate"].max(), LEFT, RIGHT)
    y_scale = logarithmic(min(heights), max(heights), BOTTOM, TOP)
    drawing = Drawing(WIDTH, HEIGHT)
    draw_axes(drawing, x_scale, y_scale, "Offered rate, requests a second")
    drawing.text(LEFT, TOP - 6, "p99, ms", "axis-label")
    level, target = y_scale.place(target_ms), fmt.milliseconds(target_ms)
    drawing.line(LEFT, level, RIGHT, level, "reference")
    records: list[dict[str, Any]] = []
    for variant in marks:
        own = rows[rows["variant"] == variant].sort_values("rate").to_dict("records")
        if own:
            _draw_line(drawing, own, marks[variant], x_scale, y_scale, len(records))
            records += own
    best = rows[rows["highest_rate"].notna()].sort_values("highest_rate", ascending=False)
    found = [
        f"{row['variant']} {fmt.significant(row['highest_rate'])}"
        for row in best.to_dict("records")
    ]
    finding = f"Highest rate a second within the target: {', '.join(found) or 'none'}."
    return Chart(
        key=key,
        subject=model,
        title=f"p99 against offered rate, {model} on {provider}, {kind}",
        caption=f"{kind.capitalize()} requests on {provider}, target p99 of {target}",
        description=finding,
        finding=finding,
        drawing=drawing,
        table=ChartTable.of(records, _SHOWN),
    )


def _draw_line(
    drawing: Drawing,
    rows: list[dict[str, Any]],
    entry: LegendEntry,
    x_scale: Scale,
    y_scale: Scale,
    first: int,
) -> None:
    places = [(x_scale.place(row["rate"]), y_scale.place(row["p99_ms"])) for row in rows]
    drawing.path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), f"line {entry.colour}")
    for number, (row, (x, y)) in enumerate(zip(rows, places, strict=True)):
        met = not fmt.is_missing(row["meets_target"]) and bool(row["meets_target"])
        drawing.path(entry.shape, f"mark {entry.colour}{'' if met else ' unsound'}", x, y)
        drawing.hit_circle(x, y, 9, first + number)
