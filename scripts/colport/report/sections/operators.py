"""The section "Where the time goes": one stacked bar of operators a variant."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from colport.report import formatting as fmt
from colport.report.charts import lanes, scales
from colport.report.charts.chart import Chart
from colport.report.charts.marks import GREY
from colport.report.columns import ShownTable
from colport.report.section import PLACE, Material, drawn, namer

LARGEST = 6
"""Operators of a chart with a colour of their own; there is one more colour, that of the others."""

COLOURS = 12
"""Operators of all charts with a colour, the same in each."""

MAX_BARS = 8

OTHER = "other"

_COLUMNS = (*PLACE, "kind", "operator", "ms", "share", "graph_ms", "matmul_share")


def section(material: Material) -> dict[str, Any] | None:
    """A chart a model, where the run was profiled, under one heading."""
    table = material.tables["operators"].query("status == 'ok'")
    # By share, so that a small model's operators have colours beside those of a large one.
    shares = table.groupby("operator")["share"].sum().sort_values(ascending=False)
    colours = {name: f"c{number}" for number, name in enumerate(shares.index[:COLOURS], start=1)}
    found = drawn(material, [table], partial(_charts, colours))
    return found and {**found, "groups": {"": [one for (one,) in found["groups"].values()]}}


def _charts(known: Mapping[str, str], number: int, model: str, rows: pd.DataFrame) -> list[Chart]:
    """The slowest variants in the kind of call that takes longest."""
    kind = rows.loc[rows["graph_ms"].idxmax(), "kind"]
    rows = rows[rows["kind"] == kind]
    rows = rows.assign(ms=rows["share"] * rows["graph_ms"])
    sums = rows.groupby("operator")["ms"].sum().sort_values(ascending=False)
    colours = {name: known[name] for name in sums.index[:LARGEST] if name in known}
    slowest = rows.drop_duplicates(PLACE).nlargest(MAX_BARS, "graph_ms")
    rows["operator"] = rows["operator"].where(rows["operator"].isin(colours), OTHER)
    name, records, lines = namer(slowest, ", "), [], []
    for first in slowest.to_dict("records"):
        own = rows[(rows[PLACE] == [first["variant"], first["provider"]]).all(axis=1)]
        shares = own.groupby("operator")["share"].sum().reindex([*colours, OTHER]).dropna()
        ends = shares.cumsum() * first["graph_ms"]
        bars = []
        for operator, start, end in zip(ends.index, [0.0, *ends], ends, strict=False):
            bars.append(lanes.Bar(start, end, colours.get(operator, GREY), len(records)))
            figures = {"operator": operator, "share": shares[operator], "ms": end - start}
            records.append(first | figures)
        figure = fmt.milliseconds(first["graph_ms"])
        if not fmt.is_missing(first["matmul_share"]):
            figure += f", {first['matmul_share']:.0%} of matmul"
        lines.append(lanes.ChartLane(name(first["variant"], first["provider"]), figure, bars))
    legend = colours | ({OTHER: GREY} if len(sums) > LARGEST else {})
    axis = lanes.Axis(scales.from_zero(slowest["graph_ms"].max(), *lanes.ACROSS), "ms")
    caption = f"{model}: time of one {kind} in the graph, batch of 1"
    table = ShownTable.of(records, _COLUMNS)
    return [lanes.chart(f"operators-{number}", model, caption, axis, lines, table, legend)]
