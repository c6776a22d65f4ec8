"""Scatter charts of quality against a cost, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    places = [(x_scale.place(point.x), y_scale.place(point.y)) for point in points]
    steps = [places[index] for index in front]
    drawing = framed(x_scale, y_scale, x_label)
    level = None
    if reference is not None:
        level = y_scale.place(reference)
        band = min(y_scale.place(reference - accepted_loss), BOTTOM) - level
        drawing.box(LEFT, level, RIGHT - LEFT, band, "band")
        drawing.line(LEFT, level, RIGHT, level, "reference")
    if len(steps) > 1:
        (x, y), *others = steps
        drawing.path(f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in others), "front")
    labels = _labels(points, places, front, level)
    for index, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
        _draw_mark(drawing, point, x, y, labels.get(index))
        note = "on the Pareto front" if index in front else ""
        drawing.hit_circle(x, y, 12, point.row, note)
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


def _draw_mark(
    drawing: Drawing, point: Point, x: float, y: float, label: tuple[float, float, str] | None
) -> None:
    if point.chosen:
        drawing.circle(x, y, 11, "ring")
    hollow = "" if point.sound else " unsound"
    drawing.path(point.mark.shape, f"mark {point.mark.colour}{hollow}", x, y)
    if label:
        label_x, label_y, anchor = label
        css = "label strong" if point.chosen else "label"
        drawing.text(label_x, label_y, point.label, css, anchor)


def _labels(
    points: Sequence[Point],
    places: Sequence[tuple[float, float]],
    front: Sequence[int],
    level: float | None,
) -> dict[int, tuple[float, float, str]]:
    """Where labels hit nothing, with their anchor; the chosen and the front go first."""
    radii = [11 if point.chosen else 7 for point in points]
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(places, radii, strict=True)]
    for (x, y), (next_x, next_y) in pairwise(places[index] for index in front):
        taken += [(x, y - 1, next_x, y + 1), (next_x, next_y - 1, next_x, y + 1)]
    if level is not None:
        taken.append((LEFT, level - 1, RIGHT, level + 1))
    labels = {}
    for index in sorted(
        range(len(points)), key=lambda index: (not points[index].chosen, index not in front)
    ):
        point, (own_x, own_y) = points[index], places[index]
        if not point.label:
            continue
        width = len(point.label) * _CHARACTER_WIDTH
        away = 14 if point.chosen else 10
        for x, y, anchor in (
            (own_x + away, own_y + 4, "start"),
            (own_x - away, own_y + 4, "end"),
            (own_x, own_y - away - 2, "middle"),
            (own_x, own_y + away + 10, "middle"),
            (own_x + 6, own_y - away - 1, "start"),
            (own_x - 6, own_y - away - 1, "end"),
            (own_x + 6, own_y + away + 10, "start"),
            (own_x - 6, own_y + away + 10, "end"),
        ):
            start = x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = (start, y - _LABEL_HEIGHT + 2, start + width, y + 3)
            inside = box[0] >= LEFT + 2 and box[2] <= WIDTH - 2
            inside = inside and box[1] >= 0 and box[3] <= BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels[index] = (x, y, anchor)
                break
    return labels


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
