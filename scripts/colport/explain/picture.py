"""Heat on a dimmed page, in NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from colport.families.base import PatchGrid

Place = tuple[int, int]
"""Row and column of a patch."""

HEAT = ("000004", "210c4a", "56106e", "89226a", "bb3754", "e35932", "f98c0a", "f9c932", "fcffa4")
"""Eight equal steps of matplotlib's perceptually uniform "inferno" (CC0)."""

CHANGE = ("b2182b", "d6604d", "f4a582", "fddbc7", "f7f7f7", "d1e5f0", "92c5de", "4393c3", "2166ac")
"""Losses in red, gains in blue: ColorBrewer's "RdBu" (Apache-2.0)."""

_BRIGHTEST = 190  # what white paper is dimmed to
_PART = 0.7  # the heat's part of a pixel's colour
_QUALITY = 50
_GAP, _LABEL, _FONT, _LEAST_WIDTH = 12, 24, 17, 200  # of a sheet, in pixels


def colours(
    values: np.ndarray, low: float, high: float, palette: Sequence[str] = HEAT
) -> np.ndarray:
    """Colours of values between two limits, ``uint8 [..., 3]``; what lies outside is clipped."""
    scaled = np.clip((np.asarray(values, float) - low) / ((high - low) or 1.0), 0, 1)
    steps = np.linspace(0, 1, len(palette))
    channels = np.array([list(bytes.fromhex(colour)) for colour in palette], float).T
    channels = [np.interp(scaled, steps, channel) for channel in channels]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw(
    page: Image.Image,
    heat: np.ndarray,
    scale: tuple[float, float],
    marked: Sequence[Place],
    box: tuple[int, int],
    palette: Sequence[str] = HEAT,
    part: tuple[float, float] = (1.0, 1.0),
) -> Image.Image:
    """A page under its heat, with patches outlined.

    Args:
        page: The page.
        heat: One value a patch, ``[rows, columns]``.
        scale: Values that the coldest and the hottest colour stand for.
        marked: Patches to outline.
        box: Largest width and height of the picture in pixels.
        palette: :data:`HEAT` or :data:`CHANGE`.
        part: See ``page`` of :class:`~colport.families.base.PatchGrid`.
    """
    rows, columns = heat.shape
    grey = fit(page.convert("L"), box, (columns, rows))
    size = grey.size
    whole = tuple(round(side / taken) for side, taken in zip(size, part, strict=True))
    dimmed = (np.asarray(grey, float) * _BRIGHTEST / 255)[..., None]
    cells = Image.fromarray(colours(heat, *scale, palette)).resize(whole, Image.Resampling.NEAREST)
    mixed = np.asarray(cells.crop((0, 0, *size)), float) * _PART + dimmed * (1 - _PART)
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    grid = PatchGrid(np.zeros((rows, columns)), part)
    pen = ImageDraw.Draw(picture)
    for row, column in marked:
        left, top, right, bottom = (round(edge) for edge in grid.region(row, column, *size))
        for pixels, colour in ((1, "black"), (2, "white")):
            start = (max(0, left - pixels), max(0, top - pixels))
            end = (min(size[0], right + pixels) - 1, min(size[1], bottom + pixels) - 1)
            pen.rectangle((start, end), outline=colour)
    return picture


def fit(page: Image.Image, box: tuple[int, int], least: tuple[int, int] = (1, 1)) -> Image.Image:
    """A page as large as fits a box, but at least a few pixels wide and high."""
    factor = min(box[0] / page.width, box[1] / page.height)
    sides = zip(page.size, least, strict=True)
    size = tuple(max(fewest, round(side * factor)) for side, fewest in sides)
    return page.resize(size, Image.Resampling.LANCZOS)


def webp(picture: Image.Image) -> bytes:
    """A picture as a small WebP file."""
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=6)
    return stream.getvalue()


def colour_bar(palette: Sequence[str] = HEAT, width: int = 256) -> Image.Image:
    """All colours from low to high, as they look on white paper."""
    row = colours(np.linspace(0, 1, width), 0, 1, palette) * _PART + _BRIGHTEST * (1 - _PART)
    return Image.fromarray(row.round().astype(np.uint8)[None])


def sheet(
    rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], scale: tuple[float, float]
) -> Image.Image:
    """Pictures with their labels and the colour bar on one white sheet.

    Args:
        rows: Heading of each row, and its pictures, each with the label below it.
        scale: Values that the ends of the colour bar stand for.
    """
    font = ImageFont.load_default(_FONT)
    width, height = (int(most) for most in np.max([p.size for _, r in rows for _, p in r], axis=0))
    across, down = max(width, _LEAST_WIDTH) + _GAP, height + 2 * _LABEL + _GAP
    columns = max(len(pictures) for _, pictures in rows)
    size = (columns * across + _GAP, len(rows) * down + 2 * _LABEL)
    paper = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(paper)
    for number, (heading, pictures) in enumerate(rows):
        top = _GAP + number * down
        pen.text((_GAP, top), heading, "black", font)
        for index, (label, picture) in enumerate(pictures):
            left = _GAP + index * across
            paper.paste(picture, (left, top + _LABEL))
            pen.text((left, top + _LABEL + height), label, "black", font)
    bottom = paper.height - _LABEL - _GAP
    low, high = (f"{value:.2f}" for value in scale)
    pen.text((_GAP, bottom), low, "black", font)
    paper.paste(colour_bar().resize((200, _FONT)), (_GAP + 50, bottom))
    pen.text((_GAP + 258, bottom), f"{high} similarity", "black", font)
    return paper
