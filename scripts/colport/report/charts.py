"""Scatter charts of quality against a cost: geometry only, the template draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

WIDTH, HEIGHT = 440, 310
LEFT, RIGHT, TOP, BOTTOM = 46, 24, 14, 44
SHAPES = (
    "M0-5.6A5.6 5.6 0 1 1 0 5.6A5.6 5.6 0 1 1 0-5.6Z",
    "M-5-5H5V5H-5Z",
    "M0-6.8L6.8 0L0 6.8L-6.8 0Z",
    "M0-6.4L6.2 5H-6.2Z",
    "M0 6.4L6.2-5H-6.2Z",
    "M-3.2-6H3.2L6.4 0L3.2 6H-3.2L-6.4 0Z",
    "M0-7L1.7-1.7L7 0L1.7 1.7L0 7L-1.7 1.7L-7 0L-1.7-1.7Z",
    "M-2.2-6.2H2.2V-2.2H6.2V2.2H2.2V6.2H-2.2V2.2H-6.2V-2.2H-2.2Z",
)
REFERENCE_SHAPE = (
    "M-5.4-3.6L-3.6-5.4L0-1.8L3.6-5.4L5.4-3.6L1.8 0L5.4 3.6L3.6 5.4L0 1.8L-3.6 5.4L-5.4 3.6L-1.8 0Z"
)
COLOURS = 7
"""Seven colours and eight shapes: both repeat, their pair does so only after 56 variants."""

_LABEL_HEIGHT, _CHARACTER_WIDTH = 12.0, 6.8


@dataclass(frozen=True)
class Point:
    """One row of the summary in a chart.

    Attributes:
        x: The cost, in the chart's unit.
        y: NDCG@5.
        label: Short name beside the mark.
        detail: The row in words, for the tooltip and for screen readers.
        shape: Path of the mark around (0, 0).
        colour: Class of its colour.
        sound: Counts for the Pareto front (parity did not fail).
        chosen: It is the recommended row.
    """

    x: float
    y: float
    label: str
    detail: str
    shape: str
    colour: str
    sound: bool = True
    chosen: bool = False


@dataclass(frozen=True)
class Mark:
    """A point with its place in the drawing, and where its label goes, if there is room."""

    point: Point
    x: float
    y: float
    front: bool
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = ""


@dataclass(frozen=True)
class Tick:
    """A grid line: its place and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw one chart."""

    key: str
    title: str
    caption: str
    description: str
    x_label: str
    marks: list[Mark]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    front_path: str
    reference_y: float | None = None
    band_height: float = 0.0
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class _Scale:
    place: Callable[[float], float]
    ticks: list[Tick] = field(default_factory=list)


def scatter(
    key: str,
    model: str,
    caption: str,
    x_label: str,
    points: Sequence[Point],
    reference: float | None,
    accepted_loss: float,
    table: str = "summary",
) -> Chart | None:
    """A chart of NDCG@5 (up is better) against a cost (left is better).

    Args:
        key: Unique in the page; part of element ids.
        model: Whose variants are drawn.
        caption: What is drawn.
        x_label: The cost with its unit.
        points: At least one, or there is no chart; costs are above 0.
        reference: PyTorch's NDCG@5: a dashed line, with a band of ``accepted_loss`` below it.
        accepted_loss: NDCG@5.
        table: The table that holds the same figures.

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
    x_scale = _cost_scale([point.x for point in points])
    y_scale = _quality_scale(min(heights), max(heights))
    front = pareto(points)
    marks = [
        Mark(point, x_scale.place(point.x), y_scale.place(point.y), index in front)
        for index, point in enumerate(points)
    ]
    level = None if reference is None else y_scale.place(reference)
    band = 0.0
    if reference is not None and level is not None:
        band = min(y_scale.place(reference - accepted_loss), HEIGHT - BOTTOM) - level
    front_marks = [marks[index] for index in front]
    names = ", ".join(points[index].label for index in front)
    return Chart(
        key=key,
        title=f"{caption}, {model}",
        caption=caption,
        description=f"{len(points)} points; on the Pareto front: {names or 'none'}. "
        f"The table {table} below holds the same figures.",
        x_label=x_label,
        marks=_with_labels(marks, front_marks, level),
        x_ticks=x_scale.ticks,
        y_ticks=y_scale.ticks,
        front_path=_step(front_marks),
        reference_y=level,
        band_height=band,
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


def shape_and_colour(number: int | None) -> tuple[str, str]:
    """Mark of the variant with this number; ``None`` is PyTorch."""
    if number is None:
        return REFERENCE_SHAPE, "c0"
    return SHAPES[number % len(SHAPES)], f"c{1 + number % COLOURS}"


def _cost_scale(values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    left, right = LEFT, WIDTH - RIGHT
    if high / low < 8:
        step = _nice_step(high * 1.12, 5)
        top = max(step * math.ceil(high * 1.06 / step), step)
        count = round(top / step)
        return _linear(0.0, top, left, right, [index * step for index in range(count + 1)])
    start, end = math.log10(low) - 0.12, math.log10(high) + 0.12
    mantissas = (1, 2, 5) if end - start < 2.2 else (1,)
    candidates = [
        mantissa * 10.0**exponent
        for exponent in range(math.floor(start), math.ceil(end) + 1)
        for mantissa in mantissas
    ]
    ticks = [value for value in candidates if start <= math.log10(value) <= end]
    ticks = ticks[:: max(1, math.ceil(len(ticks) / 7))]

    def place(value: float) -> float:
        return left + (math.log10(value) - start) / (end - start) * (right - left)

    return _Scale(place, [Tick(place(value), f"{value:,.12g}") for value in ticks])


def _quality_scale(low: float, high: float) -> _Scale:
    pad = max((high - low) * 0.18, 0.012)
    low, high = max(low - pad, 0.0), min(high + pad, 1.0)
    step = _nice_step(high - low, 5)
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return _linear(low, high, HEIGHT - BOTTOM, TOP, values, max(2, -math.floor(math.log10(step))))


def _linear(
    low: float,
    high: float,
    start: float,
    end: float,
    values: Sequence[float],
    digits: int | None = None,
) -> _Scale:
    def place(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    texts = [f"{value:,.6g}" if digits is None else f"{value:.{digits}f}" for value in values]
    return _Scale(
        place, [Tick(place(value), text) for value, text in zip(values, texts, strict=True)]
    )


def _nice_step(span: float, ticks: int) -> float:
    raw = span / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)


def _step(marks: Sequence[Mark]) -> str:
    if len(marks) < 2:
        return ""
    path = f"M{marks[0].x:.1f} {marks[0].y:.1f}"
    return path + "".join(f"H{mark.x:.1f}V{mark.y:.1f}" for mark in marks[1:])


def _with_labels(marks: Sequence[Mark], front: Sequence[Mark], level: float | None) -> list[Mark]:
    """Put labels beside marks where they hit nothing; the chosen and the front go first."""
    radii = [(mark, 11 if mark.point.chosen else 7) for mark in marks]
    taken = [(mark.x - r, mark.y - r, mark.x + r, mark.y + r) for mark, r in radii]
    taken += [
        (min(one.x, two.x), min(one.y, two.y) - 1, max(one.x, two.x), max(one.y, two.y) + 1)
        for mark, after in pairwise(front)
        for one, two in ((mark, replace(mark, x=after.x)), (replace(mark, x=after.x), after))
    ]
    if level is not None:
        taken.append((LEFT, level - 1, WIDTH - RIGHT, level + 1))
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
            inside = inside and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed[index] = replace(mark, label_x=x, label_y=y, anchor=anchor)
                break
    return placed


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
