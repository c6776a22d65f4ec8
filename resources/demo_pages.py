"""Draw demo report pages made of coloured charts, and write queries about them.

Each page holds six exhibits, for example a red pie chart or a blue table. A query names some of
them. The drawing depends only on the random generator it is given.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (208, 32, 38),
    "orange": (245, 134, 24),
    "yellow": (240, 212, 30),
    "green": (40, 150, 60),
    "cyan": (40, 190, 205),
    "blue": (36, 80, 190),
    "purple": (130, 60, 170),
    "pink": (240, 120, 180),
}
KINDS = ("pie chart", "bar chart", "line chart", "table", "photo")
EXHIBITS_PER_PAGE = 6
SUPERSAMPLING = 2  # pages are drawn larger and reduced, which smooths the edges
PALETTE_SIZE = 64

INK: Colour = (70, 70, 76)
RULE: Colour = (190, 190, 196)
PAPER: Colour = (255, 255, 255)

TITLE_SUBJECTS = ("Sales", "Energy", "Traffic", "Harvest", "Budget", "Staff", "Water", "Health")
TITLE_FORMS = ("{} report {}", "{} outlook {}", "{} in review, part {}", "Annex {1}: {0} figures")

QUERY_FORMS = (
    "Which page shows {}?",
    "Find the page with {}.",
    "Where can I see {} together?",
    "I need the page that has {}.",
    "Show me a report containing {}.",
    "On which page are there {}?",
    "Is there a page with {}?",
    "Look for {} on one page.",
)


@dataclass(frozen=True)
class Exhibit:
    """One chart, table or photo in one colour."""

    colour: str
    kind: str

    @property
    def name(self) -> str:
        """Words for the exhibit without an article, such as "red pie chart"."""
        return f"{self.colour} {self.kind}"

    @property
    def phrase(self) -> str:
        """Words for the exhibit with its indefinite article."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.name}"


EXHIBITS = tuple(Exhibit(colour, kind) for colour, kind in product(COLOURS, KINDS))


@dataclass(frozen=True)
class Layout:
    """Page size in pixels and the grid that its exhibits stand in."""

    width: int
    height: int
    columns: int
    rows: int
    stroke: float = 1  # by which lines are wider than on the small pages


LAYOUTS: dict[str, Layout] = {
    "portrait": Layout(252, 336, 2, 3),
    "tall": Layout(224, 364, 2, 3),
    "landscape": Layout(336, 252, 3, 2),
    "wide": Layout(392, 220, 3, 2),
    "square": Layout(294, 294, 2, 3),
    "letter": Layout(1224, 1584, 2, 3, stroke=4.8),  # 8.5 x 11 inches at 144 dpi
}
SMALL = ("portrait", "tall", "landscape", "wide", "square")


@dataclass(frozen=True)
class Page:
    """A drawn page with its exhibits and their boxes as fractions of width and height."""

    image: Image.Image
    exhibits: tuple[Exhibit, ...]
    boxes: tuple[Box, ...]

    def png(self) -> bytes:
        """Encode the page as PNG with few colours, which halves the size; it stays RGB."""
        buffer = io.BytesIO()
        reduced = self.image.quantize(PALETTE_SIZE, dither=Image.Dither.NONE).convert("RGB")
        reduced.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()


class _Pen(ImageDraw.ImageDraw):
    """Draws on an image, with lines so many times as wide as on the small pages."""

    def __init__(self, image: Image.Image, stroke: float) -> None:
        super().__init__(image)
        self._stroke = stroke

    def px(self, width: int) -> int:
        """Pixels of what takes `width` pixels on a small page."""
        return round(width * self._stroke)


def make_page(rng: random.Random, layouts: Sequence[str] = SMALL) -> Page:
    """Draw a page with six different exhibits in a layout chosen from `layouts`."""
    layout = LAYOUTS[rng.choice(layouts)]
    width, height = layout.width * SUPERSAMPLING, layout.height * SUPERSAMPLING
    image = Image.new("RGB", (width, height), PAPER)
    draw = _Pen(image, layout.stroke)
    exhibits = tuple(rng.sample(EXHIBITS, EXHIBITS_PER_PAGE))
    header = 0.08 * height
    _draw_title(draw, rng, (0.06 * width, 0.02 * height, 0.94 * width, header))
    boxes = tuple(_cells(rng, layout, (0.03 * width, header, 0.97 * width, 0.98 * height)))
    for exhibit, box in zip(exhibits, boxes, strict=True):
        _DRAWERS[exhibit.kind](draw, rng, box, _shade(rng, COLOURS[exhibit.colour]))
    fractions = tuple(
        (x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes
    )
    return Page(image.reduce(SUPERSAMPLING), exhibits, fractions)


def make_query(rng: random.Random, exhibits: Sequence[Exhibit]) -> str:
    """Write a sentence that asks for a page with all of `exhibits`."""
    listing = _listing(rng.sample(list(exhibits), len(exhibits)))
    return rng.choice(QUERY_FORMS).format(listing)


def make_caption(page: Page) -> str:
    """Say what a page shows, row by row and from left to right."""
    return _listing(page.exhibits)


def _listing(exhibits: Sequence[Exhibit]) -> str:
    *first, last = (exhibit.phrase for exhibit in exhibits)
    return f"{', '.join(first)} and {last}" if first else last


def _cells(rng: random.Random, layout: Layout, area: Box) -> list[Box]:
    """Split `area` into the layout's grid, each cell with margins of its own."""
    left, top, right, bottom = area
    cell_width, cell_height = (right - left) / layout.columns, (bottom - top) / layout.rows
    cells = []
    for row, column in product(range(layout.rows), range(layout.columns)):
        x, y = left + column * cell_width, top + row * cell_height
        margins = [rng.uniform(0.05, 0.14) for _ in range(4)]
        cells.append(
            (
                x + margins[0] * cell_width,
                y + margins[1] * cell_height,
                x + (1 - margins[2]) * cell_width,
                y + (1 - margins[3]) * cell_height,
            )
        )
    return cells


def _shade(rng: random.Random, colour: Colour) -> Colour:
    """Vary a colour a little, as prints and screens do."""
    red, green, blue = (max(0, min(255, channel + rng.randint(-14, 14))) for channel in colour)
    return red, green, blue


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Blend `share` of `other` into `colour`."""
    red, green, blue = (
        round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def _draw_title(draw: _Pen, rng: random.Random, box: Box) -> None:
    left, top, right, bottom = box
    title = rng.choice(TITLE_FORMS).format(rng.choice(TITLE_SUBJECTS), rng.randint(1, 60))
    draw.text((left, top), title, fill=INK, font=ImageFont.load_default(size=0.65 * (bottom - top)))
    draw.line((left, bottom, right, bottom), fill=RULE, width=draw.px(2))


def _draw_pie(draw: _Pen, rng: random.Random, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    disc = (x - radius, y - radius, x + radius, y + radius)
    cuts = sorted(rng.sample(range(20, 341, 20), rng.randint(2, 4)))
    for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, 360], strict=True)):
        tint = _mix(colour, PAPER, 0.4) if index % 2 else colour
        draw.pieslice(disc, start, end, fill=tint, outline=PAPER, width=draw.px(3))


def _draw_axes(draw: _Pen, box: Box) -> None:
    left, top, right, bottom = box
    draw.line((left, top, left, bottom), fill=INK, width=draw.px(2))
    draw.line((left, bottom, right, bottom), fill=INK, width=draw.px(2))


def _draw_bars(draw: _Pen, rng: random.Random, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    count = rng.randint(4, 6)
    step = (right - left) / count
    for index in range(count):
        x = left + index * step
        y = bottom - rng.uniform(0.3, 1.0) * (bottom - top)
        draw.rectangle((x + 0.2 * step, y, x + 0.85 * step, bottom), fill=colour)
    _draw_axes(draw, box)


def _draw_line(draw: _Pen, rng: random.Random, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    for fraction in (0.25, 0.5, 0.75):
        y = top + fraction * (bottom - top)
        draw.line((left, y, right, y), fill=RULE, width=draw.px(1))
    count = rng.randint(5, 8)
    step = (right - left) / (count - 1)
    points = [(left + i * step, rng.uniform(top, 0.9 * bottom + 0.1 * top)) for i in range(count)]
    draw.line(points, fill=colour, width=draw.px(7), joint="curve")
    radius = draw.px(7)
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    _draw_axes(draw, box)


def _draw_table(draw: _Pen, rng: random.Random, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    columns, rows = rng.randint(2, 4), rng.randint(4, 6)
    width, height = (right - left) / columns, (bottom - top) / rows
    draw.rectangle((left, top, right, top + height), fill=colour)
    for row in range(2, rows, 2):
        y = top + row * height
        draw.rectangle((left, y, right, y + height), fill=_mix(colour, PAPER, 0.65))
    for row, column in product(range(1, rows), range(columns)):
        x, y = left + (column + 0.2) * width, top + (row + 0.5) * height
        draw.line((x, y, x + rng.uniform(0.2, 0.6) * width, y), fill=INK, width=draw.px(4))
    for column in range(columns + 1):
        x = left + column * width
        draw.line((x, top, x, bottom), fill=colour, width=draw.px(3))
    draw.rectangle(box, outline=colour, width=draw.px(4))


def _draw_photo(draw: _Pen, rng: random.Random, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    draw.rectangle(box, fill=_mix(colour, PAPER, 0.25))
    x, y = left + rng.uniform(0.2, 0.8) * width, top + rng.uniform(0.2, 0.35) * height
    radius = 0.13 * min(width, height)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_mix(colour, PAPER, 0.7))
    for darkness, base in ((0.3, 0.45), (0.55, 0.65)):
        count = rng.randint(3, 5)
        ridge = [
            (left + i * width / count, top + rng.uniform(base, base + 0.25) * height)
            for i in range(count + 1)
        ]
        draw.polygon([(left, bottom), *ridge, (right, bottom)], fill=_mix(colour, INK, darkness))


_DRAWERS = {
    "pie chart": _draw_pie,
    "bar chart": _draw_bars,
    "line chart": _draw_line,
    "table": _draw_table,
    "photo": _draw_photo,
}
