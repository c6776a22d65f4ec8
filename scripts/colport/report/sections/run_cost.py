"""The section "Cost of the run": how long each stage took, and its memory."""

from __future__ import annotations

from typing import Any

from colport.report import formatting as fmt
from colport.report.charts import lanes
from colport.report.section import Material

_COLUMNS = ("stage", "jobs", "seconds", "longest_seconds", "peak_rss_mb")


def section(material: Material) -> dict[str, Any] | None:
    """A bar a stage, the costliest first."""
    jobs = material.tables["stages"]
    if jobs.empty:
        return None
    stages = jobs.groupby("stage", sort=False).agg(
        jobs=("seconds", "size"),
        seconds=("seconds", "sum"),
        longest_seconds=("seconds", "max"),
        peak_rss_mb=("peak_rss_mb", "max"),
    )
    records = stages.sort_values("seconds", ascending=False).reset_index().to_dict("records")
    bars = [(row["stage"], row["seconds"], _figure(row), "c1") for row in records]
    caption = "Time of all jobs by stage"
    chart = lanes.bars("run-cost", "all jobs", caption, "s", bars, records, _COLUMNS)
    return {"groups": {"": [chart]}}


def _figure(row: dict[str, Any]) -> str:
    return f"{_duration(row['seconds'])} in {row['jobs']} job{'' if row['jobs'] == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{fmt.significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
