"""Scatter charts of quality against a cost, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from colport.report.charts import scales
from colport.report.charts.chart import Chart
from colport.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Drawing, framed
from colport.report.charts.marks import Mark
from colport.report.columns import ShownTable

_LABEL_HEIGHT, _CHARACTER_WIDTH = 12.0, 6.8


@dataclass(frozen=True)
class Point:
    """One row in a chart.

    Attributes:
        x: The cost, in the chart's unit.
        y: NDCG@5.
        label: Short name beside the mark.
        row: Index of its row in the chart's table.
        mark: Its shape and colour.
        sound: Counts for the Pareto front (parity did not fail).
        chosen: It is the recommended row.
    """

    x: float
    y: float
    label: str
    row: int
    mark: Mark
    sound: bool = True
    chosen: bool = False


@dataclass(frozen=True)
class _Placed:
    """A point with its place in the drawing, and where its label goes, if there is room."""

    point: Point
    x: float
    y: float
    front: bool
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = ""


def chart(
    key: str,
    model: str,
    caption: str,
    x_label: str,
    points: Sequence[Point],
    table: ShownTable,
    reference: float | None,
    accepted_loss: float,
) -> Chart | None:
    """A chart of NDCG@5 (up is better) against a cost (left is better).

    Args:
        key: Unique in the page; part of element ids.
        model: Whose variants are drawn.
        caption: What is drawn.
        x_label: The cost with its unit.
        points: At least one, or there is no chart; costs are above 0.
        table: The rows behind the points.
        reference: PyTorch's NDCG@5: a dashed line, with a band of ``accepted_loss`` below it.
        accepted_loss: NDCG@5.

    Returns:
        The chart, or ``None`` without points.
    """
    points = [
        point
        for point in points
        if math.isfinite(point.x) and math.isfinite(point.y) and point.x > 0
    ]
    if not points:
        return None
    reference = reference if reference is not None and math.isfinite(reference) else None
    heights = [point.y for point in points] + ([] if reference is None else [reference])
    x_scale = scales.cost([point.x for point in points], LEFT, RIGHT)
    y_scale = scales.quality(min(heights), max(heights), BOTTOM, TOP)
    front = pareto(points)
    marks = [
        _Placed(point, x_scale.place(point.x), y_scale.place(point.y), index in front)
        for index, point in enumerate(points)
    ]
    drawing = framed(x_scale, y_scale, x_label)
    level = None
    if reference is not None:
        level = y_scale.place(reference)
        band = min(y_scale.place(reference - accepted_loss), BOTTOM) - level
        drawing.box(LEFT, level, RIGHT - LEFT, band, "band")
        drawing.line(LEFT, level, RIGHT, level, "reference")
    front_marks = [marks[index] for index in front]
    if len(front_marks) > 1:
        drawing.path(_step(front_marks), "front")
    for mark in _with_labels(marks, front_marks, level):
        _draw_mark(drawing, mark)
    names = ", ".join(points[index].label for index in front)
    return Chart(
        key=key,
        subject=model,
        title=f"{caption}, {model}",
        caption=caption,
        description=f"{len(points)} points; on the Pareto front: {names or 'none'}.",
        drawing=drawing,
        table=table,
    )


def pareto(points: Sequence[Point]) -> list[int]:
    """Indices of the sound points that no other sound one beats: cheapest first.

    A point is beaten by one that costs no more and is better, or costs less and is as good.
    """
    order = sorted(
        (index for index, point in enumerate(points) if point.sound),
        key=lambda index: (points[index].x, -points[index].y),
    )
    front: list[int] = []
    best = -math.inf
    for index in order:
        if points[index].y > best:
            front.append(index)
            best = points[index].y
    return front


def _draw_mark(drawing: Drawing, mark: _Placed) -> None:
    point = mark.point
    if point.chosen:
        drawing.circle(mark.x, mark.y, 11, "ring")
    hollow = "" if point.sound else " unsound"
    drawing.path(point.mark.shape, f"mark {point.mark.colour}{hollow}", mark.x, mark.y)
    if mark.anchor:
        css = "label strong" if point.chosen else "label"
        drawing.text(mark.label_x, mark.label_y, point.label, css, mark.anchor)
    note = "on the Pareto front" if mark.front else ""
    drawing.hit_circle(mark.x, mark.y, 12, point.row, note)


def _step(marks: Sequence[_Placed]) -> str:
    path = f"M{marks[0].x:.1f} {marks[0].y:.1f}"
    return path + "".join(f"H{mark.x:.1f}V{mark.y:.1f}" for mark in marks[1:])


def _with_labels(
    marks: Sequence[_Placed], front: Sequence[_Placed], level: float | None
) -> list[_Placed]:
    """Put labels beside marks where they hit nothing; the chosen and the front go first."""
    radii = [(mark, 11 if mark.point.chosen else 7) for mark in marks]
    taken = [(mark.x - r, mark.y - r, mark.x + r, mark.y + r) for mark, r in radii]
    taken += [
        (min(one.x, two.x), min(one.y, two.y) - 1, max(one.x, two.x), max(one.y, two.y) + 1)
        for mark, after in pairwise(front)
        for one, two in ((mark, replace(mark, x=after.x)), (replace(mark, x=after.x), after))
    ]
    if level is not None:
        taken.append((LEFT, level - 1, RIGHT, level + 1))
    placed = list(marks)
    order = sorted(
        range(len(marks)), key=lambda index: (not marks[index].point.chosen, not marks[index].front)
    )
    for index in order:
        mark = marks[index]
        if not mark.point.label:
            continue
        width = len(mark.point.label) * _CHARACTER_WIDTH
        away = 14 if mark.point.chosen else 10
        for x, y, anchor in (
            (mark.x + away, mark.y + 4, "start"),
            (mark.x - away, mark.y + 4, "end"),
            (mark.x, mark.y - away - 2, "middle"),
            (mark.x, mark.y + away + 10, "middle"),
            (mark.x + 6, mark.y - away - 1, "start"),
            (mark.x - 6, mark.y - away - 1, "end"),
            (mark.x + 6, mark.y + away + 10, "start"),
            (mark.x - 6, mark.y + away + 10, "end"),
        ):
            start = x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = (start, y - _LABEL_HEIGHT + 2, start + width, y + 3)
            inside = box[0] >= LEFT + 2 and box[2] <= WIDTH - 2
            inside = inside and box[1] >= 0 and box[3] <= BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed[index] = replace(mark, label_x=x, label_y=y, anchor=anchor)
                break
    return placed


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
