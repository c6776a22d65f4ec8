"""The section "Speed": how many times as fast as PyTorch, by batch size, with its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.base.names import PLURALS, REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import Chart, ChartTable, Dot, Lane, LegendEntry, Whisker, lanes, legend
from colport.report.charts.lanes import LEFT, RIGHT, Axis
from colport.report.charts.scales import cost
from colport.report.section import MAX_MODELS, ChartGroup, Material, Section, chart_section, undrawn

MAX_LANES = 48

_COLUMNS = (
    *("variant", "provider", "kind", "batch_size", "speedup_vs_pytorch"),
    *("speedup_low", "speedup_high", "p50_ms", "samples", "reason"),
)
_INTRO = (
    "Times as fast as PyTorch in the same interleaved run; further right is better, the dashes are "
    "PyTorch itself. A dot is the median of the rounds' ratios of medians, the line runs from the "
    "lowest to the highest of them. A call is a whole encode call, preprocessing included."
)


def section(material: Material) -> Section | None:
    """Speed-ups by batch size, for documents and for queries."""
    latency = material.tables["latency"]
    marks = legend(str(name) for name in material.tables["summary"]["variant"])
    rows = latency[
        (latency["status"] == "ok")
        & (latency["variant"] != REFERENCE_VARIANT)
        & (latency["speedup_vs_pytorch"] > 0)
    ]
    groups = [
        ChartGroup(
            str(model),
            [
                _chart(f"speed-{number}-{kind}", str(model), kind, found, marks)
                for kind in ("document", "query")
                if len(found := of_model[of_model["kind"] == kind])
            ],
        )
        for number, (model, of_model) in enumerate(rows.groupby("model", sort=False))
        if number < MAX_MODELS
    ]
    return chart_section("speed", "Speed", "Speed", _INTRO, groups, note=undrawn(rows))


def _chart(
    key: str, model: str, kind: str, rows: pd.DataFrame, marks: Mapping[str, LegendEntry]
) -> Chart:
    records = rows.reindex(columns=list(_COLUMNS))[:MAX_LANES].to_dict("records")
    several = rows["provider"].nunique() > 1
    drawn = []
    for index, row in enumerate(records):
        name = f"{row['variant']} on {fmt.provider(row['provider'])}" if several else row["variant"]
        colour = marks[row["variant"]].colour if row["variant"] in marks else "c0"
        low, high = _range(row)
        drawn.append(
            Lane(
                f"{name}, batch of {fmt.count(row['batch_size'])}",
                fmt.ratio(row["speedup_vs_pytorch"]),
                [
                    Whisker(low, high, colour),
                    Dot(float(row["speedup_vs_pytorch"]), 5.0, colour, index),
                ],
                index,
            )
        )
    values = [value for row in records for value in (*_range(row), row["speedup_vs_pytorch"])]
    axis = Axis(cost([1.0, *values], LEFT, RIGHT), "Times PyTorch", baseline=1.0, lane_height=10.0)
    plural = PLURALS[kind]
    caption = f"Speed-up on {plural} by batch size"
    return lanes(key, model, caption, axis, drawn, ChartTable.of(records, _COLUMNS))


def _range(row: Mapping[str, Any]) -> tuple[float, float]:
    """Range over rounds; the ratio itself where there is none."""
    middle = float(row["speedup_vs_pytorch"])
    low, high = row["speedup_low"], row["speedup_high"]
    if fmt.is_missing(low) or fmt.is_missing(high) or not low > 0:
        return middle, middle
    return float(low), float(high)
