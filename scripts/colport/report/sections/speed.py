"""The section "Speed": how many times as fast as PyTorch, by batch size, with its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.base.names import PLURALS, REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import lanes, scales
from colport.report.charts.chart import Chart
from colport.report.charts.marks import Legend
from colport.report.columns import ShownTable
from colport.report.section import Material, drawn, namer

MAX_LANES = 48

_KINDS = ("document", "query", "caption", "first_token", "picture")
_COLUMNS = (
    *("variant", "provider", "kind", "batch_size", "speedup_vs_pytorch"),
    *("speedup_low", "speedup_high", "p50_ms", "samples", "reason"),
)


def section(material: Material) -> dict[str, Any] | None:
    """Speed-ups by batch size, of each kind of call."""
    latency = material.tables["latency"]
    rows = latency[
        (latency["status"] == "ok")
        & (latency["variant"] != REFERENCE_VARIANT)
        & (latency["speedup_vs_pytorch"] > 0)
    ].reindex(columns=["model", *_COLUMNS])

    # One scale, so that charts of kinds and models can be compared.
    ends = [value for row in rows.to_dict("records") for value in _range(row)]
    scale = scales.cost([1.0, *ends], *lanes.BESIDE)

    def charts(number: int, model: str, own: pd.DataFrame) -> list[Chart]:
        kinds = [(kind, own[own["kind"] == kind]) for kind in _KINDS]
        return [
            _chart(f"speed-{number}-{kind}", model, kind, found, material.marks, scale)
            for kind, found in kinds
            if len(found)
        ]

    return drawn(material, [rows], charts)


def _chart(
    key: str, model: str, kind: str, rows: pd.DataFrame, marks: Legend, scale: scales.Scale
) -> Chart:
    records = rows[:MAX_LANES].to_dict("records")
    name = namer(rows)
    lines = []
    for index, row in enumerate(records):
        colour, ratio = marks[row["variant"]].colour, row["speedup_vs_pytorch"]
        dot = lanes.Dot(float(ratio), 5.0, colour, index)
        lines.append(
            lanes.ChartLane(
                f"{name(row['variant'], row['provider'])}, batch of {fmt.count(row['batch_size'])}",
                fmt.ratio(ratio),
                [lanes.Whisker(*_range(row), colour), dot],
                index,
            )
        )
    axis = lanes.Axis(scale, "Times PyTorch", baseline=1.0, lane_height=10.0, beside=True)
    caption = f"Speed-up on {PLURALS[kind]} by batch size"
    return lanes.chart(key, model, caption, axis, lines, ShownTable.of(records, _COLUMNS))


def _range(row: Mapping[str, Any]) -> tuple[float, float]:
    """Range over rounds; the ratio itself where there is none."""
    middle = float(row["speedup_vs_pytorch"])
    low, high = row["speedup_low"], row["speedup_high"]
    if fmt.is_missing(low) or fmt.is_missing(high) or not low > 0:
        return middle, middle
    return float(low), float(high)
