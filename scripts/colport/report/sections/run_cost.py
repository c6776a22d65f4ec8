"""The section "Cost of the run": how long each stage took, and its memory."""

from __future__ import annotations

from colport.report import formatting as fmt
from colport.report.charts import Bar, ChartTable, Lane, lanes
from colport.report.charts.lanes import LEFT, RIGHT, Axis
from colport.report.charts.scales import from_zero
from colport.report.section import ChartGroup, Material, Section, chart_section

_COLUMNS = ("stage", "jobs", "seconds", "longest_seconds", "peak_rss_mb")
_INTRO = (
    "Time of whole jobs, start of Python and imports included, summed by stage; shorter is better. "
    "Jobs run beside each other where cores allow, so that the run took less than their sum. "
    "Memory is the most that one job's processes held. From every job of the run, once each."
)


def section(material: Material) -> Section | None:
    """A bar a stage, the costliest first."""
    jobs = material.table("stages")
    if jobs.empty:
        return None
    stages = jobs.groupby("stage", sort=False).agg(
        jobs=("seconds", "size"),
        seconds=("seconds", "sum"),
        longest_seconds=("seconds", "max"),
        peak_rss_mb=("peak_rss_mb", "max"),
    )
    records = stages.sort_values("seconds", ascending=False).reset_index().to_dict("records")
    axis = Axis(from_zero(max(row["seconds"] for row in records), LEFT, RIGHT), "s")
    drawn = [
        Lane(
            str(row["stage"]),
            f"{_duration(row['seconds'])} in {row['jobs']} job{'' if row['jobs'] == 1 else 's'}",
            [Bar(0.0, float(row["seconds"]), "c1", index)],
            index,
        )
        for index, row in enumerate(records)
    ]
    table = ChartTable.of(records, _COLUMNS)
    chart = lanes("run-cost", "all jobs", "Time of all jobs by stage", axis, drawn, table)
    groups = [ChartGroup("", [chart])]
    return chart_section("run-cost", "Cost of the run", "Cost of the run", _INTRO, groups)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{fmt.significant(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
