"""Charts: drawn as SVG when the report is made, each with the table behind it."""

from __future__ import annotations

from colport.report.charts.chart import Chart, ChartTable, Swatch
from colport.report.charts.lanes import Bar, Dot, Lane, Whisker, lanes
from colport.report.charts.marks import LegendEntry, legend, shape_and_colour
from colport.report.charts.scatter import Point, pareto, scatter

__all__ = [
    "Bar",
    "Chart",
    "ChartTable",
    "Dot",
    "Lane",
    "LegendEntry",
    "Point",
    "Swatch",
    "Whisker",
    "lanes",
    "legend",
    "pareto",
    "scatter",
    "shape_and_colour",
]
