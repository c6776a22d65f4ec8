"""The section "Where the time goes": one stacked bar of operators a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.report import formatting as fmt
from colport.report.charts import Bar, Chart, ChartTable, Lane, Swatch, lanes
from colport.report.charts.lanes import LEFT, RIGHT, Axis
from colport.report.charts.scales import from_zero
from colport.report.section import MAX_MODELS, ChartGroup, Material, Section, chart_section

LARGEST = 6
"""Operators with a colour of their own; there is one more colour, that of the others."""

MAX_BARS = 8

OTHER = "other"

_COLUMNS = ("variant", "provider", "kind", "operator", "ms", "share", "graph_ms", "matmul_share")
_INTRO = (
    "ONNX Runtime's own profile of the graph, summed by operator; shorter is better. The length of "
    "a bar is the median call without the profiler. The share of matmul is the rate at which the "
    "graph does its multiplications and additions, over that of a plain fp32 matrix product of the "
    "model's size on the same threads (higher is better; integer kernels can exceed 100%)."
)


def section(material: Material) -> Section | None:
    """Bars of operators, where the run was profiled."""
    charts = operator_charts(material.table("operators"))
    groups = [ChartGroup("", list(charts.values()))]
    return chart_section("operators", "Where the time goes", "Operators", _INTRO, groups)


def operator_charts(table: pd.DataFrame) -> dict[str, Chart]:
    """A chart a model: its slowest variants in the kind of call that takes longest.

    Args:
        table: ``operators.csv``; without rows where nothing was profiled.
    """
    measured = table[table["status"] == "ok"]
    models = list(measured.groupby("model", sort=False))[:MAX_MODELS]
    return {
        str(model): _chart(f"operators-{number}", str(model), rows)
        for number, (model, rows) in enumerate(models)
    }


def _chart(key: str, model: str, rows: pd.DataFrame) -> Chart:
    kind = rows.loc[rows["graph_ms"].idxmax(), "kind"]
    rows = rows[rows["kind"] == kind]
    rows = rows.assign(ms=rows["share"] * rows["graph_ms"])
    sums = rows.groupby("operator")["ms"].sum().sort_values(ascending=False)
    colours = {name: f"c{number}" for number, name in enumerate(sums.index[:LARGEST], start=1)}
    slowest = rows.drop_duplicates(["variant", "provider"]).nlargest(MAX_BARS, "graph_ms")
    several = slowest["provider"].nunique() > 1
    records: list[dict[str, Any]] = []
    drawn = [
        _lane(
            rows[(rows["variant"] == row["variant"]) & (rows["provider"] == row["provider"])],
            colours,
            records,
            several,
        )
        for row in slowest.to_dict("records")
    ]
    legend = [Swatch(str(name), colour) for name, colour in colours.items()]
    if len(sums) > LARGEST:
        legend.append(Swatch(OTHER, "c0"))
    axis = Axis(from_zero(slowest["graph_ms"].max(), LEFT, RIGHT), "ms")
    caption = f"{model}: time of one {kind} in the graph, batch of 1"
    return lanes(key, model, caption, axis, drawn, ChartTable.of(records, _COLUMNS), legend)


def _lane(
    rows: pd.DataFrame, colours: Mapping[str, str], records: list[dict[str, Any]], several: bool
) -> Lane:
    first = rows.iloc[0]
    label = str(first["variant"])
    if several:
        label += f", {fmt.provider(first['provider'])}"
    figure = fmt.milliseconds(first["graph_ms"])
    if not fmt.is_missing(first["matmul_share"]):
        figure += f", {first['matmul_share']:.0%} of matmul"
    shares = dict(zip(rows["operator"], rows["share"], strict=True))
    parts = {name: shares[name] for name in colours if name in shares}
    if others := sum(share for name, share in shares.items() if name not in colours):
        parts[OTHER] = others
    bars, start = [], 0.0
    for name, share in parts.items():
        end = start + share * first["graph_ms"]
        bars.append(Bar(start, end, colours.get(name, "c0"), len(records)))
        records.append({**first, "operator": name, "share": share, "ms": end - start})
        start = end
    return Lane(label, figure, bars)
