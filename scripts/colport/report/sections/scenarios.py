"""The section "Servers under load": p99 against the offered rate, a line a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.report import formatting as fmt
from colport.report.charts.chart import Chart
from colport.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP, framed
from colport.report.charts.marks import HOLLOW, Mark
from colport.report.charts.scales import logarithmic
from colport.report.columns import ShownTable
from colport.report.section import Material
from colport.tables import runs
from colport.timing.server.settings import SERVER

MAX_CHARTS = 24

_SHOWN = (
    *("variant", "provider", "kind", "rate", "p99_ms", "mean_batch", "meets_target"),
    *("highest_rate", "samples"),
)


def section(material: Material) -> dict[str, Any] | None:
    """Servers of every model, where the run had them."""
    groups = load_charts(material.tables["scenarios"], material.marks)
    marks = {"hollow: target missed": HOLLOW}
    return {"groups": groups, "legend": material.marks, "further_marks": marks} if groups else None


def shown_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for their scenario, and those without figures."""
    return table[table["best"].fillna(False).astype(bool) | (table["status"] != "ok")]


def load_charts(table: pd.DataFrame, marks: Mapping[str, Mark]) -> dict[str, list[Chart]]:
    """Charts by model: a chart a provider and kind of input.

    Args:
        table: ``scenarios.csv``.
        marks: Shape and colour of each variant; others are not drawn.
    """
    drawn = table.assign(run=runs(table))
    drawn = drawn[(drawn["scenario"] == SERVER) & (drawn["status"] == "ok")]
    drawn = drawn[drawn["variant"].isin(list(marks))]
    charts: dict[str, list[Chart]] = {}
    groups = list(drawn.groupby(["model", "run", "kind"], sort=False))
    for number, ((model, _, kind), rows) in enumerate(groups[:MAX_CHARTS]):
        chart = _chart(f"load-{number}", str(model), str(kind), rows, marks)
        charts.setdefault(str(model), []).append(chart)
    return charts


def _chart(key: str, model: str, kind: str, rows: pd.DataFrame, marks: Mapping[str, Mark]) -> Chart:
    target_ms, provider = rows["target_ms"].iloc[0], fmt.provider(rows["provider"].iloc[-1])
    heights = [*rows["p99_ms"], target_ms]
    x_scale = logarithmic(rows["rate"].min(), rows["rate"].max(), LEFT, RIGHT)
    y_scale = logarithmic(min(heights), max(heights), BOTTOM, TOP)
    drawing = framed(x_scale, y_scale, "Offered rate, requests a second")
    drawing.text(LEFT, TOP - 6, "p99, ms" + y_scale.note, "axis-label")
    level, target = y_scale.place(target_ms), fmt.milliseconds(target_ms)
    drawing.line(LEFT, level, RIGHT, level, "reference")
    records: list[dict[str, Any]] = []
    for variant, (shape, colour) in marks.items():
        own = rows[rows["variant"] == variant].sort_values("rate").to_dict("records")
        places = [(x_scale.place(row["rate"]), y_scale.place(row["p99_ms"])) for row in own]
        if own:
            drawing.path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), f"line {colour}")
        for row, (x, y) in zip(own, places, strict=True):
            hollow = "" if fmt.is_true(row["meets_target"]) else " unsound"
            drawing.path(shape, f"mark {colour}{hollow}", x, y)
            drawing.hit_circle(x, y, 9, len(records))
            records.append(row)
    best = rows[rows["highest_rate"].notna()].sort_values("highest_rate", ascending=False)
    rates = zip(best["variant"], map(fmt.significant, best["highest_rate"]), strict=True)
    found = ", ".join(map(" ".join, rates)) or "none"
    finding = f"Highest rate a second within the target: {found}."
    return Chart(
        key=key,
        subject=model,
        title=f"p99 against offered rate, {model} on {provider}, {kind}",
        caption=f"{kind.capitalize()} requests on {provider}, target p99 of {target}",
        description=finding,
        finding=finding,
        drawing=drawing,
        table=ShownTable.of(records, _SHOWN),
    )
