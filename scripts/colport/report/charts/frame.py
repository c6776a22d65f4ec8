"""The frame of charts with two axes."""

from __future__ import annotations

from colport.report.charts.drawing import Drawing
from colport.report.charts.scales import Scale

WIDTH, HEIGHT = 440, 310
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 24, 14, HEIGHT - 44


def framed(x_scale: Scale, y_scale: Scale, x_label: str) -> Drawing:
    """Grid lines, ticks and the name of the horizontal axis, to draw on."""
    drawing = Drawing(WIDTH, HEIGHT)
    for tick in y_scale.ticks:
        drawing.line(LEFT, tick.at, RIGHT, tick.at, "grid")
        drawing.text(LEFT - 8, tick.at + 4, tick.text, "tick", "end")
    for tick in x_scale.ticks:
        drawing.line(tick.at, BOTTOM, tick.at, BOTTOM + 4, "notch")
        drawing.text(tick.at, BOTTOM + 18, tick.text, "tick", "middle")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    drawing.text(RIGHT, BOTTOM + 36, x_label, "axis-label", "end")
    return drawing
