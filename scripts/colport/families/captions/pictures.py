"""Pictures as a captioner's image processor makes them, in NumPy alone.

What the processors do with torchvision becomes a list of steps in ``colport.json``; here each step
gives the same pixels, see :mod:`colport.families.pages.images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colport.base.errors import UnsupportedError
from colport.base.foreign import shape_beside
from colport.families.pages import processors
from colport.families.pages.images import PageError, normalise, planes, resize

_DONUT = "DonutImageProcessor"
_KNOWN = (
    *("CLIPImageProcessor", "ViTImageProcessor", "DeiTImageProcessor", "BlipImageProcessor"),
    _DONUT,
)
_NO = None, False
_OWN = {
    True: (("do_thumbnail", (True,)), ("do_pad", (True,))),  # of Donut
    False: (("do_pad", _NO),),
}
_MOST = 2**28  # pixels that a picture may be resized to

SHAPE = {**processors.SHAPE, **shape_beside(__file__)}
"""Shape of ``processing.image``, for :func:`colport.families.base.check_settings`."""

Sides = Mapping[str, int]


def image_settings(folder: Path, images: Any) -> dict[str, Any]:
    """The settings of a checkpoint's image processor, of :data:`SHAPE`.

    The pictures of a batch become equally large, since they are inputs of one call.

    Args:
        folder: The checkpoint, for messages.
        images: An image processor of transformers.

    Raises:
        UnsupportedError: It is of another class, does something else to a picture, or lets
            pictures differ in size.
    """
    is_donut = type(images).__name__ == _DONUT
    values = processors.values(folder, images, _KNOWN, _OWN[is_donut])
    steps = _donut_steps(folder, images) if is_donut else [_resizing(folder, images)]
    if images.do_center_crop:
        steps.append({"centre": _sides(folder, images, "crop_size")})
    if "shortest" in steps[-1]:
        raise UnsupportedError(
            f"{folder}: the image processor has size {dict(images.size)} and do_center_crop "
            f"{images.do_center_crop}, so that pictures differ in size; exported is height and "
            "width as its size, or do_center_crop True."
        )
    return {"steps": steps, **values}


def _resizing(folder: Path, images: Any) -> dict[str, Sides]:
    size = dict(images.size)
    if "shortest_edge" in size and min(size.values()) > 0:
        longest = {"longest": size["longest_edge"]} if "longest_edge" in size else {}
        return {"shortest": {"side": size["shortest_edge"], **longest}}
    return {"stretch": _sides(folder, images, "size")}


def _donut_steps(folder: Path, images: Any) -> list[dict[str, Sides]]:
    sides = _sides(folder, images, "size")
    steps = [{"shortest": {"side": min(sides.values())}}, {"thumbnail": sides}, {"centre": sides}]
    return [{"align": sides}, *steps] if images.do_align_long_axis else steps


def _sides(folder: Path, images: Any, key: str) -> dict[str, int]:
    """Height and width of a size.

    Raises:
        UnsupportedError: It has others, or none, or one that is no size.
    """
    found = dict(getattr(images, key) or {})
    if found.keys() != {"height", "width"} or min(found.values()) < 1:
        other = ", or a shortest_edge" if key == "size" and type(images).__name__ != _DONUT else ""
        raise UnsupportedError(
            f"{folder}: the image processor's {key} is {found}; exported is a height and a width"
            f"{other}."
        )
    return found


def picture_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of every picture, by ``processing.image``."""
    ((_, sides),) = image["steps"][-1].items()
    return sides["height"], sides["width"]


def prepare(picture: Image.Image, image: Mapping[str, Any]) -> np.ndarray:
    """A picture as the image graph takes it, ``float32 [3, height, width]``.

    Bit-equal to what the processor makes of :func:`~colport.families.pages.images.as_page`.

    Args:
        picture: An image of any mode.
        image: The settings ``processing.image``.

    Raises:
        PageError: It is no picture, or so narrow that a step leaves nothing of it or needs more
            than 2**28 pixels.
    """
    pixels = np.stack(planes(picture))
    for step in image["steps"]:
        for name, sides in step.items():
            pixels = _STEPS[name](pixels, image["resample"], **sides)
    return normalise(pixels, image["scale"], image["mean"], image["std"])


def _resized(pixels: np.ndarray, kernel: str, height: int, width: int) -> np.ndarray:
    if not 0 < height * width <= _MOST:
        raise PageError(
            f"would be resized from {pixels.shape[2]}x{pixels.shape[1]} to {width}x{height} "
            f"pixels; allowed are 1 to {_MOST} pixels"
        )
    return resize(pixels, height, width, kernel)


def _align(pixels: np.ndarray, kernel: str, height: int, width: int) -> np.ndarray:
    is_other = (height - width) * (pixels.shape[1] - pixels.shape[2]) < 0
    return np.rot90(pixels, 3, axes=(1, 2)) if is_other else pixels


def _shortest(pixels: np.ndarray, kernel: str, side: int, longest: int | None = None) -> np.ndarray:
    """As transformers' ``get_size_with_aspect_ratio``, whose floats round in this order."""
    shape = pixels.shape[1:]
    short, long = min(shape), max(shape)
    exact: float = side
    if longest is not None and long / short * side > longest:
        exact = longest * short / long
        side = round(exact)
    if short == side:
        return pixels
    other = int(exact * long / short)
    return _resized(pixels, kernel, *((side, other) if shape[0] <= shape[1] else (other, side)))


def _thumbnail(pixels: np.ndarray, kernel: str, height: int, width: int) -> np.ndarray:
    tall, broad = pixels.shape[1:]
    height, width = min(tall, height), min(broad, width)
    if (height, width) == (tall, broad):
        return pixels
    if tall > broad:
        width = int(broad * height / tall)
    elif broad > tall:
        height = int(tall * width / broad)
    return _resized(pixels, kernel, height, width)


def _centre(pixels: np.ndarray, kernel: str, height: int, width: int) -> np.ndarray:
    """The middle of what is larger, and black around what is smaller; odd rests lie behind."""
    centred = np.zeros((len(pixels), height, width), np.uint8)
    (top, from_top), (left, from_left) = map(_common, pixels.shape[1:], (height, width))
    centred[:, from_top, from_left] = pixels[:, top, left]
    return centred


def _common(side: int, target: int) -> tuple[slice, slice]:
    """What two lengths with the same middle have in common, as parts of either."""
    less, start, place = min(side, target), max(side - target, 0) // 2, max(target - side, 0) // 2
    return slice(start, start + less), slice(place, place + less)


_STEPS = {
    "align": _align,
    "stretch": _resized,
    "shortest": _shortest,
    "thumbnail": _thumbnail,
    "centre": _centre,
}
