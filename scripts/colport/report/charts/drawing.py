"""SVG by hand: a few shapes, everything from outside escaped."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup, escape

from colport.base.redaction import redacted
from colport.report.charts.scales import Scale

WIDTH, HEIGHT = 440, 310
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 24, 14, HEIGHT - 44
"""Of a chart with two axes."""


class Hit(NamedTuple):
    """A place that shows a row when it is pointed at or focused: a circle or a rectangle.

    Attributes:
        shape: The SVG element's name and its geometry.
        row: Index of the row in the chart's table.
        note: More to say about it than the row does.
    """

    shape: Markup
    row: int
    note: str = ""


class Drawing:
    """Shapes in the order in which they are drawn, and where the reader can point.

    Args:
        width: Of the drawing, in its own units.
        height: The same.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.hits: list[Hit] = []
        self._parts: list[str] = []

    @property
    def markup(self) -> Markup:
        """What was drawn, for the inside of an ``svg`` element."""
        return Markup("".join(self._parts))

    def path(self, d: str, css: str, x: float = 0.0, y: float = 0.0) -> None:
        """A path, moved to a place."""
        moved = f' transform="translate({_n(x)} {_n(y)})"' if x or y else ""
        self._parts.append(f'<path class="{css}" d="{d}"{moved}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self.path(f"M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}", css)

    def box(self, x: float, y: float, width: float, height: float, css: str) -> None:
        """A filled rectangle; one too narrow to be seen is half a unit wide."""
        self.path(f"M{_n(x)} {_n(y)}h{_n(max(width, 0.5))}v{_n(height)}H{_n(x)}Z", css)

    def circle(self, x: float, y: float, r: float, css: str) -> None:
        """A circle."""
        self._parts.append(f'<circle class="{css}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>')

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        """One line of text, without what looks like an access token."""
        text = escape(redacted(text))
        css = f' class="{css}"' if css else ""
        anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self._parts.append(f'<text{css} x="{_n(x)}" y="{_n(y)}"{anchor}>{text}</text>')

    def hit_circle(self, x: float, y: float, r: float, row: int, note: str = "") -> None:
        """A round place that shows a row."""
        self.hits.append(Hit(Markup(f'circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"'), row, note))

    def hit_box(self, x: float, y: float, width: float, height: float, row: int) -> None:
        """A rectangular place that shows a row."""
        size = f'width="{_n(max(width, 3))}" height="{_n(height)}"'
        self.hits.append(Hit(Markup(f'rect x="{_n(x)}" y="{_n(y)}" {size}'), row))


def _n(value: float) -> str:
    """A coordinate with one decimal, and none where it is a whole number."""
    return f"{value:.1f}".removesuffix(".0")


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
    drawing.text(RIGHT, BOTTOM + 36, x_label + x_scale.note, "axis-label", "end")
    return drawing
