"""Charts of one lane a row: a name, its figure, and marks on an axis that all lanes share.

The name stands above the marks, so that long ones fit and the chart stays readable on a phone, or
in a column of its own beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from colport.report.charts.chart import Chart
from colport.report.charts.drawing import Drawing
from colport.report.charts.scales import Scale, from_zero
from colport.report.columns import ShownTable

WIDTH = 440
ACROSS = LEFT, RIGHT = 2, WIDTH - 14
"""Where a scale begins and ends."""
BESIDE = LEFT + 188, RIGHT - 46
"""The same between a column of names and one of figures."""

_CHARACTER = 6.6
_HEAD, _GAP = 17, 8


class Bar(NamedTuple):
    """A bar from ``start`` to ``end``; ``height`` is its share of the lane's."""

    start: float
    end: float
    colour: str
    row: int
    height: float = 1.0


class Dot(NamedTuple):
    """A disc; its radius is in the drawing's units."""

    at: float
    radius: float
    colour: str
    row: int


class Whisker(NamedTuple):
    """A range, a line with ends."""

    low: float
    high: float
    colour: str


class ChartLane(NamedTuple):
    """One lane.

    Attributes:
        name: Left above the marks or beside them; shortened in its middle if it does not fit.
        figure: Right above them or beside them.
        marks: Drawn in order.
        row: The row that the whole lane shows; ``None`` where each mark has its own.
        limit: A place on the axis to mark, such as a tolerance.
    """

    name: str
    figure: str
    marks: Sequence[Bar | Dot | Whisker]
    row: int | None = None
    limit: float | None = None


class Axis(NamedTuple):
    """What the lanes share: the scale, its name, a line to compare with, and the lanes' height.

    Names and figures have columns of their own if ``beside``; the scale is between them then.
    """

    scale: Scale
    label: str
    baseline: float | None = None
    lane_height: float = 14.0
    beside: bool = False


def chart(
    key: str,
    model: str,
    caption: str,
    axis: Axis,
    rows: Sequence[ChartLane],
    table: ShownTable,
    legend: Mapping[str, str] | None = None,
) -> Chart:
    """A chart of lanes.

    Args:
        key: Unique in the page.
        model: What the chart is about.
        caption: What is drawn.
        axis: What they share.
        rows: Its lanes, from the top.
        table: The rows behind the marks.
        legend: Colours that only this chart has, by what they stand for.
    """
    pitch = _HEAD * (not axis.beside) + axis.lane_height + _GAP
    bottom = len(rows) * pitch
    drawing = Drawing(WIDTH, bottom + 38)
    _draw_axis(drawing, axis, bottom)
    for number, lane in enumerate(rows):
        _draw_lane(drawing, axis, lane, number * pitch)
    said = "; ".join(f"{lane.name}: {lane.figure}" for lane in rows)
    return Chart(
        key, model, f"{caption}, {model}", caption, f"{said}.", drawing, table, legend or {}
    )


def bars(
    key: str,
    model: str,
    caption: str,
    label: str,
    rows: Sequence[tuple[str, float, str, str]],
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
) -> Chart:
    """A chart of one bar a lane, from zero.

    Args:
        key: Unique in the page.
        model: What the chart is about.
        caption: What is drawn.
        label: The axis with its unit.
        rows: Name, length, figure in words and colour of each bar.
        records: The rows behind them.
        columns: Those of the table behind the chart.
    """
    axis = Axis(from_zero(max(length for _, length, *_ in rows), *ACROSS), label)
    drawn = [
        ChartLane(str(name), figure, [Bar(0.0, float(length), colour, number)], number)
        for number, (name, length, figure, colour) in enumerate(rows)
    ]
    return chart(key, model, caption, axis, drawn, ShownTable.of(records, columns))


def _draw_axis(drawing: Drawing, axis: Axis, bottom: float) -> None:
    for tick in axis.scale.ticks:
        drawing.line(tick.at, 0, tick.at, bottom, "grid")
        anchor = "start" if tick.at < LEFT + 8 else "middle"
        drawing.text(tick.at, bottom + 14, tick.text, "tick", anchor)
    if axis.baseline is not None:
        at = axis.scale.place(axis.baseline)
        drawing.line(at, 0, at, bottom, "reference")
    drawing.text(RIGHT, bottom + 32, axis.label + axis.scale.note, "axis-label", "end")


def _draw_lane(drawing: Drawing, axis: Axis, lane: ChartLane, top: float) -> None:
    place, height = axis.scale.place, axis.lane_height
    upper = top + _HEAD * (not axis.beside)
    middle = upper + height / 2
    width = BESIDE[0] - LEFT if axis.beside else RIGHT - LEFT - (len(lane.figure) + 2) * _CHARACTER
    room, name = max(3, int(width / _CHARACTER)), lane.name
    if len(name) > room:  # names of a family often begin alike
        name = f"{name[: (room - 1) // 2]}…{name[-(room // 2) :]}"
    line = middle + 4 if axis.beside else top + 12
    drawing.text(LEFT, line, name, "label")
    drawing.text(RIGHT, line, lane.figure, "figure", "end")
    for mark in lane.marks:
        if isinstance(mark, Bar):
            start, end = place(mark.start), place(mark.end)
            tall = height * mark.height
            drawing.box(start, upper + height - tall, end - start, tall, f"bar {mark.colour}")
            if lane.row is None:
                drawing.hit_box(start, upper, end - start, height, mark.row)
        elif isinstance(mark, Dot):
            drawing.circle(place(mark.at), middle, mark.radius, f"bar {mark.colour}")
            if lane.row is None:
                drawing.hit_circle(place(mark.at), middle, max(mark.radius, 6), mark.row)
        else:
            low, high = place(mark.low), place(mark.high)
            drawing.line(low, middle, high, middle, f"whisker {mark.colour}")
            for end in (low, high):
                drawing.line(end, middle - 4, end, middle + 4, f"whisker {mark.colour}")
    if lane.limit is not None:
        at = place(lane.limit)
        drawing.line(at, upper - 2, at, upper + height + 2, "limit")
    if lane.row is not None:
        drawing.hit_box(0, top, WIDTH, upper + height + 2 - top, lane.row)
