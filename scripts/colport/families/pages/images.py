"""Page images as the reference processors see them, in NumPy and Pillow alone.

:func:`as_page` is the one door for images of others: files of a dataset or of a command, and what
callers hand to an encoder.

transformers resizes ``uint8`` pages with torch's antialiased bicubic filter, whose 16-bit integer
weights round differently from Pillow's (up to 2 of 255 on a pixel). :func:`resize_bicubic` follows
torch's arithmetic, so that pixels are equal, not close.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from threadpoolctl import ThreadpoolController

_BICUBIC_A = -0.5  # Keys' cubic convolution parameter, as in Pillow and torch's antialiased filter
_MAX_PRECISION = 22
_MIDDLE = 128
_EXACT = 2**24  # whole numbers below are exact in fp32
_BLOCK, _BAND = 16, 256
"""Rows of a result that one product filters, and rows of a page that it filters them for: few
calls, little of the source read in vain, and sums that stay in the caches."""


_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N")
_EIGHT_BITS = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"),
    *("CMYK", "HSV", "LAB", "YCbCr"),
)
"""Modes whose black and white Pillow knows."""

_FEW_BITS, _COLOURS16 = {"L;2": 85, "L;4": 17}, "RGB;16B"  # Pillow's raw modes of PNG
_LOST_KEY = "is an image of 16 bits whose transparent colour {} is lost in 8"
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF
_ORIENTATION, _UPRIGHT = 0x0112, 1  # of EXIF
_WHITE16 = 2**16 - 1
_LOADING = tuple(Lock() for _ in range(64))


class PageError(ValueError):
    """Why an image is no page; ``args[0]`` completes a sentence about it."""


def as_page(image: Image.Image) -> Image.Image:
    """An image as models see it: upright as its camera says, over white, in RGB.

    Grey of 16 bits becomes grey of 8; what is a page is given back. Threads may share an image
    whose file is not read yet.

    Args:
        image: An image of any mode; of a file with several, the one that it is at.

    Raises:
        PageError: It has no pixels, cannot be decoded, or its black and white are not known.
    """
    with _LOADING[id(image) // 64 % len(_LOADING)]:  # Pillow reads a file in one thread alone
        try:
            return _page(image)
        except PageError:
            raise
        except decode_errors() as error:
            raise PageError(f"is an image that cannot be decoded ({error})") from error


def _page(image: Image.Image) -> Image.Image:
    widened = _widened(image)
    image.load()
    if widened > 1:
        image.info["transparency"] *= widened
    if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    if 0 in image.size:
        raise PageError(f"is a page of {image.width}x{image.height} pixels")
    if (white := _white(image)) is not None:
        return _from_grey(image, *white)
    if image.mode not in _EIGHT_BITS:
        raise PageError(
            f"is an image of mode {image.mode}, whose black and white are not known; allowed "
            "are 8 bits a channel, and grey of 16 bits"
        )
    if image.has_transparency_data:
        return _over_white(image)
    # One with a file behind it changes when its caller turns to the next page of the file.
    is_page = image.mode == "RGB" and type(image) is Image.Image
    return image if is_page else image.convert("RGB")


def _widened(image: Image.Image) -> int:
    """By what the transparent value of a PNG file that is not read yet misses its pixels'.

    Pillow widens grey of 2 or 4 bits and narrows colours of 16, and leaves the value as it was.
    """
    is_keyed = image.format == "PNG" and "transparency" in image.info
    stored = image.tile[0].args if is_keyed and image.tile else None
    if stored == _COLOURS16:
        raise PageError(_LOST_KEY.format(image.info["transparency"]))
    return _FEW_BITS.get(stored, 1)


def _white(image: Image.Image) -> tuple[int, int] | None:
    """Values of black and white of grey in more than 8 bits; ``None`` for other images."""
    if image.mode == "I" and image.format == "PPM":
        return 0, _WHITE16  # Pillow scales its values
    if image.mode not in _GREY16:
        return None
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS, (16,))[0] - 1
    return (white, 0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (0, white)


def _from_grey(image: Image.Image, black: int, white: int) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    levels = np.rint((values - black) / (white - black) * 255).clip(0, 255)
    if "transparency" in image.info:
        levels[values == image.info["transparency"]] = 255
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of an image that was read before
        raise PageError(_LOST_KEY.format(key))
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def decode_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises on damaged files."""
    return (
        *(OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError),
        *(struct.error, Image.DecompressionBombError),
    )


def planes(page: Image.Image) -> list[np.ndarray]:
    """Pixels of a page by channel: red, green and blue, each ``uint8 [height, width]``."""
    return [np.asarray(channel) for channel in as_page(page).split()]


def resized(page: Image.Image, height: int, width: int, image: Mapping[str, Any]) -> np.ndarray:
    """A page in a size as a graph takes it; see :func:`normalise` for values of ``image``."""
    pixels = resize_bicubic(planes(page), height, width)
    return normalise(pixels, image["scale"], image["mean"], image["std"])


def resize_bicubic(pixels: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Antialiased bicubic resize, bit-equal to torch's for ``uint8`` images on CPU.

    Args:
        pixels: Of each channel ``uint8 [height, width]``.
        height: Target height in pixels.
        width: Target width in pixels.

    Returns:
        ``uint8 [channels, height, width]``.
    """
    with one_thread():
        return np.stack([_resized_plane(plane, height, width) for plane in pixels])


def normalise(pixels: np.ndarray, scale: float, mean: list[float], std: list[float]) -> np.ndarray:
    """``(pixels * scale - mean) / std`` per channel, as the reference fuses it.

    Args:
        pixels: ``uint8 [channels, ...]``.
        scale: Factor applied to the pixel values first (1/255 for most models).
        mean: Per-channel mean after scaling.
        std: Per-channel standard deviation after scaling.

    Returns:
        ``float32 [channels, ...]``.
    """
    table = _normalised_values(scale, tuple(mean), tuple(std))
    return np.stack([values[plane] for values, plane in zip(table, pixels, strict=True)])


@lru_cache(maxsize=8)
def _normalised_values(scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What each of the 256 pixel values becomes, ``float32 [channels, 256]``."""
    mean_scaled = np.asarray(mean, np.float32) * np.float32(1.0 / scale)
    std_scaled = np.asarray(std, np.float32) * np.float32(1.0 / scale)
    return (np.arange(256, dtype=np.float32) - mean_scaled[:, None]) / std_scaled[:, None]


def _resized_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    if plane.shape[1] != width:
        blocks = _filter_blocks(plane.shape[1], width)
        bias = np.concatenate([block.bias for block in blocks])
        kind = blocks[0].weights.dtype
        filtered = np.empty((plane.shape[0], width), np.uint8)
        for start in range(0, plane.shape[0], _BAND):
            band = _centred(plane[start : start + _BAND], kind)
            sums = np.empty((len(band), width), kind)
            for block in blocks:
                weights = block.weights.T
                np.matmul(band[:, block.source], weights, out=sums[:, block.target])
            _round(sums, bias, filtered[start : start + _BAND])
        plane = filtered
    if plane.shape[0] == height:
        return plane
    result = np.empty((height, width), np.uint8)
    for block in _filter_blocks(plane.shape[0], height):
        sums = block.weights @ _centred(plane[block.source], block.weights.dtype)
        _round(sums, block.bias[:, None], result[block.target])
    return result


def _centred(pixels: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """Pixels less the middle of their range: half as large, so are their sums."""
    values = pixels.astype(kind)
    values -= _MIDDLE
    return values


def _round(sums: np.ndarray, bias: np.ndarray, result: np.ndarray) -> None:
    """Round sums of centred pixels, which it overwrites, to pixels."""
    sums += bias
    np.floor(sums, out=sums)
    sums += _MIDDLE
    result[...] = np.clip(sums, 0, 255, out=sums)


@dataclass(frozen=True)
class _FilterBlock:
    """Filter weights of some neighbouring rows, over the source rows that they read.

    Attributes:
        target: Rows of the result.
        source: Rows of the source.
        weights: ``[target rows, source rows]`` in a float type that holds every sum of them times
            centred pixels exactly.
        bias: Of each target row: a half, and what weights that do not sum to 1 give the middle.
    """

    target: slice
    source: slice
    weights: np.ndarray
    bias: np.ndarray


@lru_cache(maxsize=64)
def _filter_blocks(source: int, target: int) -> tuple[_FilterBlock, ...]:
    """Filter weights in blocks.

    Follows ``_compute_index_ranges_int16_weights`` of torch's CPU upsampling: weights in double,
    normalised to sum 1, then rounded at the largest power of two that keeps them within 16 bits.
    """
    rows, firsts = _weights(source, target)
    largest = max(float(row.max()) for row in rows)
    precision = 0
    while precision < _MAX_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    unit = 1 << precision
    whole = [np.trunc(row * unit + np.copysign(0.5, row)) for row in rows]
    biases = np.array([_MIDDLE * (row.sum() - unit) + unit / 2 for row in whole])
    most = max(_MIDDLE * np.abs(row).sum() for row in whole) + np.abs(biases).max()
    exact = np.float32 if most < _EXACT else np.float64
    blocks = []
    for start in range(0, target, _BLOCK):
        stop = min(start + _BLOCK, target)
        first = min(firsts[start:stop])
        last = max(firsts[row] + len(rows[row]) for row in range(start, stop))
        weights = np.zeros((stop - start, last - first))
        for row in range(start, stop):
            begin = firsts[row] - first
            weights[row - start, begin : begin + len(whole[row])] = whole[row]
        # Divided by a power of two, all stay exact.
        parts = ((values / unit).astype(exact) for values in (weights, biases[start:stop]))
        blocks.append(_FilterBlock(slice(start, stop), slice(first, last), *parts))
    return tuple(blocks)


def _weights(source: int, target: int) -> tuple[list[np.ndarray], list[int]]:
    """Normalised filter weights of each target row, and the first source row that it reads."""
    scale = source / target
    stretch = max(scale, 1.0)
    rows, firsts = [], []
    for row in range(target):
        centre = scale * (row + 0.5)
        first = max(int(centre - 2.0 * stretch + 0.5), 0)
        last = min(int(centre + 2.0 * stretch + 0.5), source)
        taps = _cubic((np.arange(first, last) - centre + 0.5) * (1.0 / stretch))
        rows.append(taps / taps.sum())
        firsts.append(first)
    return rows, firsts


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' bicubic kernel (Keys 1981, "Cubic convolution interpolation")."""
    x = np.abs(x)
    a = _BICUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def one_thread() -> AbstractContextManager[object]:
    """Run products of NumPy in the calling thread alone, as long as the block lasts.

    OpenBLAS's threads wait for their next product by spinning, some 20 ms long, and take the cores
    of ONNX Runtime's threads meanwhile: a page's call of 4 ms took 8 to 12 now and then.

    The setting is the process's. Of several threads that ask for it, the first one sets it and puts
    it back (threadpoolctl 3.8).
    """
    return _blas().limit(limits=1)


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
