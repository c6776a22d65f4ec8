"""Qwen2-VL's geometry of pages: size, patches, and where each patch and token lies.

All of it is computed from a page's size, outside the graph, so that one graph serves every grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colport.families.pages.images import PageError, normalise, planes, resize

Grid = tuple[int, int]
"""Rows and columns of a page's patches."""

_MAX_ASPECT_RATIO = 200  # as Qwen2-VL's own processor


def shape_fault(width: int, height: int) -> str | None:
    """What Qwen2-VL's processor does not take about a page's size."""
    if max(height, width) <= _MAX_ASPECT_RATIO * min(height, width):
        return None
    return (
        f"is a page of {width}x{height} pixels: sides may differ at most {_MAX_ASPECT_RATIO} times"
    )


def fitted_size(height: int, width: int, image: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that a page is resized to, by Qwen2-VL's rule.

    Both are multiples of patch size times merge size, their product lies within ``min_pixels``
    and ``max_pixels``, and the aspect ratio is kept as far as that allows.

    Raises:
        PageError: The page is more than 200 times longer than wide, or the reverse.
    """
    if fault := shape_fault(width, height):
        raise PageError(fault)
    unit = image["patch_size"] * image["merge_size"]
    fitted = [round(side / unit) * unit for side in (height, width)]
    area = fitted[0] * fitted[1]
    if area > image["max_pixels"]:
        shrink = math.sqrt(height * width / image["max_pixels"])
        fitted = [max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width)]
    elif area < image["min_pixels"]:
        grow = math.sqrt(image["min_pixels"] / (height * width))
        fitted = [math.ceil(side * grow / unit) * unit for side in (height, width)]
    return fitted[0], fitted[1]


def page_patches(page: Any, image: Mapping[str, Any]) -> tuple[np.ndarray, Grid]:
    """Patches ``float32 [patches, values]`` in merge-block order, and their grid."""
    pixels = planes(page)
    height, width = fitted_size(*pixels[0].shape, image)
    pixels = resize(pixels, height, width, image["resample"])
    size, merge, frames = image["patch_size"], image["merge_size"], image["temporal_patch_size"]
    rows, columns = height // size, width // size
    blocks = pixels.reshape(-1, rows // merge, merge, size, columns // merge, merge, size)
    ordered = blocks.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows * columns, size * size)
    values = normalise(ordered, image["scale"], image["mean"], image["std"])
    clip = np.empty((rows * columns, len(values), frames, size * size), np.float32)
    clip[...] = values.swapaxes(0, 1)[:, :, None]  # a page is a clip of equal frames
    return clip.reshape(rows * columns, -1), (rows, columns)


def token_grid(page: Any, image: Mapping[str, Any]) -> Grid:
    """Rows and columns of a page's tokens: blocks of patches that are merged to one."""
    height, width = fitted_size(page.height, page.width, image)
    unit = image["patch_size"] * image["merge_size"]
    return height // unit, width // unit


def patch_positions(grid: Grid, merge: int) -> np.ndarray:
    """Row and column of each patch, ``int64 [patches, 2]``, in merge-block order."""
    blocks = (2, grid[0] // merge, merge, grid[1] // merge, merge)
    ordered = np.indices(grid, dtype=np.int64).reshape(blocks).transpose(1, 3, 2, 4, 0)
    return ordered.reshape(-1, 2)


def windows(tokens: Grid, side: int) -> list[np.ndarray]:
    """The tokens of each square window of a page, in reading order; fewer at its far borders.

    Args:
        tokens: Rows and columns of the page's tokens.
        side: Tokens along a side of a window.
    """
    rows, columns = tokens
    places = np.arange(rows * columns).reshape(tokens)
    return [
        places[row : row + side, column : column + side].ravel()
        for row in range(0, rows, side)
        for column in range(0, columns, side)
    ]


def page_slots(grids: Sequence[Grid]) -> np.ndarray:
    """The patches of each page, ``int64 [pages, most patches]``; -1 behind a shorter page's."""
    lengths = np.array([rows * columns for rows, columns in grids])
    starts = np.cumsum([0, *lengths[:-1]])
    place = np.arange(lengths.max())
    return np.where(place < lengths[:, None], starts[:, None] + place, -1)


def token_positions(is_image: np.ndarray, mask: np.ndarray, grids: Sequence[Grid]) -> np.ndarray:
    """Time, row and column of each token for Qwen2-VL's rotary embedding (arXiv:2409.12191).

    Text counts up on all three axes. A page's tokens share one time and take its rows and columns;
    the text behind it goes on from the largest position. Padding is 0.

    Args:
        is_image: ``bool [batch, tokens]``; one run a row.
        mask: ``int64 [batch, tokens]``.
        grids: Rows and columns of each page's tokens, not of its patches.

    Returns:
        ``int64 [3, batch, tokens]``.
    """
    positions = np.zeros((3, *mask.shape), np.int64)
    for row, grid in enumerate(grids):
        image = is_image[row, mask[row] > 0]
        steps = np.ones(image.size, np.int64)
        steps[image] = 0
        steps[np.flatnonzero(image)[-1]] = max(grid)
        counted = np.tile(np.cumsum(steps) - steps, (3, 1))
        counted[1:, image] = counted[0, image][0] + np.indices(grid).reshape(2, -1)
        counted[0, image] = counted[0, image][0]
        positions[:, row, mask[row] > 0] = counted
    return positions
