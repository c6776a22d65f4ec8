"""Page images as the reference processors see them, in NumPy and Pillow alone.

:func:`as_page` is the one door for images of others: files of a dataset or of a command, and what
callers hand to an encoder.

transformers resizes ``uint8`` pages with torch's antialiased filters, whose 16-bit integer weights
round differently from Pillow's (up to 2 of 255 on a pixel). :func:`resize` follows torch's
arithmetic, so that pixels are equal, not close.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from PIL import Image, ImageOps
from threadpoolctl import ThreadpoolController

_BICUBIC_A = -0.5  # Keys' cubic convolution parameter, as in Pillow and torch's antialiased filter
_MAX_PRECISION = 22
_MIDDLE = 128
_EXACT = 2**24  # whole numbers below are exact in fp32
_BLOCKS = {"C": (8, 16), "F": (8,)}
"""Results that one product may filter, by the order of its pixels in memory: enough to be fast, few
enough to read little in vain, and multiples of the 8 that OpenBLAS computes at a time."""
_RUNS = 1, 2, 4, 8, 16
"""Into how many runs a filter's blocks may be cut. Within a run, windows are equally many pixels
apart, so that they drift away from the centres of their results."""
_EXTRA = 500  # multiplications that take as long as the rest of a product, for each of its rows
_MANY = 32  # with one doubtful result of so many, it is faster to filter all of them again
_BAND = 2**19  # pixels that are filtered at a time, so that their sums stay in the caches

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
    page = as_page(page)
    shape = page.height, page.width
    return [np.frombuffer(page.tobytes("raw", name), np.uint8).reshape(shape) for name in "RGB"]


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """Let the process keep up to some 60 MB of what it frees, for its next page.

    glibc gives more than twice the largest block that was freed back to the system, and that is
    what sets its thresholds (mallopt(3), M_MMAP_THRESHOLD). A page of 1224x1584 pixels then takes
    2,400 page faults, 6 of 15 ms. The block is never touched, so that it takes no memory.
    """
    np.empty(31 * 2**20, np.uint8)


def resize(
    pixels: Sequence[np.ndarray], height: int, width: int, kernel: str = "bicubic"
) -> np.ndarray:
    """Antialiased resize, bit-equal to torch's for ``uint8`` images on CPU.

    Args:
        pixels: Of each channel ``uint8 [height, width]``.
        height: Target height in pixels.
        width: Target width in pixels.
        kernel: One of :data:`KERNELS`.

    Returns:
        ``uint8 [channels, height, width]``.
    """
    narrow = np.empty((len(pixels[0]), len(pixels), width), np.uint8)
    result = np.empty((height, len(pixels), width), np.uint8)
    _keep_memory()
    with one_thread():
        for channel, plane in enumerate(pixels):
            _filter_rows(plane, narrow[:, channel], kernel, "C")
        _filter_rows(narrow.reshape(len(narrow), -1).T, result.reshape(height, -1).T, kernel, "F")
    return result.swapaxes(0, 1)


def normalise(pixels: np.ndarray, scale: float, mean: list[float], std: list[float]) -> np.ndarray:
    """``(pixels * scale - mean) / std`` per channel, as the reference fuses it.

    Args:
        pixels: ``uint8 [channels, ...]``.
        scale: Factor applied to the pixel values first (1/255 for most models).
        mean: Per-channel mean after scaling.
        std: Per-channel standard deviation after scaling.

    Returns:
        ``float32 [channels, ...]``, in memory in the order of ``pixels``.
    """
    channels = -1, *(1,) * (pixels.ndim - 1)
    values = pixels.astype(np.float32)
    values -= (np.asarray(mean, np.float32) * np.float32(1.0 / scale)).reshape(channels)
    values /= (np.asarray(std, np.float32) * np.float32(1.0 / scale)).reshape(channels)
    return values


def _filter_rows(
    source: np.ndarray, result: np.ndarray, kernel: str, order: Literal["C", "F"]
) -> None:
    """Resize each row of ``uint8 [rows, width]``; ``order`` is that of both arrays in memory.

    Few calls of NumPy, each on much: threads that prepare pages beside each other hardly wait for
    the interpreter's lock.
    """
    (rows, width), target = source.shape, result.shape[1]
    if width == target:
        result[...] = source
        return
    before, (leap, step), weights, bias, middle, doubt = _filter(width, target, kernel, order)
    runs, blocks, taps, size = weights.shape
    length = max(before + width, (runs - 1) * leap + (blocks - 1) * step + taps)
    band = min(rows, -(-_BAND // length))
    pixels = np.zeros((band, length), np.float32, order)
    sums = np.empty((band, bias.size), np.float32, order)
    row, pixel = pixels.strides
    strides = leap * pixel, step * pixel, row, pixel
    windows = as_strided(pixels, (runs, blocks, band, taps), strides)
    by_block = np.moveaxis(sums.reshape(band, runs, blocks, size), 0, 2)
    for start in range(0, rows, band):
        part, settled = source[start : start + band], result[start : start + band]
        count = len(part)
        pixels[:count, before : before + width] = (part ^ middle).view(np.int8) if middle else part
        np.matmul(windows[:, :, :count], weights, out=by_block[:, :, :count])
        values = sums[:count]
        values += bias
        settled[...] = np.clip(values, 0, 255, out=values)[:, :target]
        if doubt:  # the largest that each can be, rounded like the least
            values += doubt
            doubtful = values[:, :target].astype(np.uint8) != settled
            _settle(settled, doubtful, windows[:, :, :count], weights, order)


def _settle(
    result: np.ndarray,
    doubtful: np.ndarray,
    windows: np.ndarray,
    weights: np.ndarray,
    order: Literal["C", "F"],
) -> None:
    """Filter again what is doubtful, in fp64, which holds these sums exactly.

    Of noise and of pages that is a thousandth. Fine regular patterns can make all results doubtful.
    """
    places = np.flatnonzero(doubtful.ravel(order))
    if len(places) * _MANY > doubtful.size:
        sums = np.moveaxis(np.matmul(windows.astype(np.float64), weights), 2, 0)
        sums = sums.reshape(len(result), -1)[:, : result.shape[1]]
        result[...] = np.clip(sums + 0.5, 0, 255)
        return
    row, column = np.unravel_index(places, doubtful.shape, order)
    run, block, place = np.unravel_index(column, (*weights.shape[:2], weights.shape[3]))
    pixels = windows[run, block, row].astype(np.float64)
    sums = np.einsum("rt,rt->r", pixels, weights[run, block, :, place])
    result[row, column] = np.clip(sums + 0.5, 0, 255)


@lru_cache(maxsize=64)
def _filter(
    source: int, target: int, kernel: str, order: Literal["C", "F"]
) -> tuple[int, tuple[int, int], np.ndarray, np.ndarray, int, float]:
    """The filter from one side's length to another, in blocks of neighbouring results.

    Follows ``_compute_index_ranges_int16_weights`` of torch's CPU upsampling: weights in double,
    normalised to sum 1, then rounded at the largest power of two that keeps them within 16 bits.

    A sum in fp32 is exact if, counted in the weights' last bit, all its parts are below 2**24. For
    some filters they are so only when the middle of the pixels' range is taken from each pixel
    first. Where a side becomes less than a quarter as long, they are not: each addition may then be
    wrong by half of the last bit of the largest sum, and together they give the doubt.

    Returns:
        How many pixels before the source the first block's window begins; pixels from a run's first
        window to the next run's, and from a block's window to the next one's; weights ``float32
        [runs, blocks of a run, pixels of a window, results of a block]``; what is added to each
        result of all blocks, so that it becomes the least that it can be, rounded by cutting off;
        the middle that is taken from pixels, or 0; the doubt, by how much the largest that a result
        can be exceeds the least, 0 where sums are exact.
    """
    taps, firsts, lasts = _weights(source, target, kernel)
    precision, largest = 0, taps.max()
    while precision < _MAX_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    unit = 1 << precision
    whole = np.trunc(taps * unit + np.copysign(0.5, taps))
    most = np.abs(whole).sum(axis=1).max()
    middle, doubt = 0, 0.0
    if 2 * _MIDDLE * most > _EXACT:
        if max(_MIDDLE * most, 2 * _MIDDLE * unit) <= _EXACT:
            middle = _MIDDLE
        else:  # three more: the half, the doubt, and what these themselves are rounded by
            largest = np.float32(2 * _MIDDLE * most / unit)
            doubt = float((taps.shape[1] + 3) * np.spacing(largest))
    rows, stride = np.arange(target), source / target

    def layout(size: int, runs: int) -> tuple[int, ...]:
        blocks = -(-target // (size * runs))
        leap, step = round(stride * size * blocks), round(stride * size)
        run, block = np.divmod(rows // size, blocks)
        begin = firsts - run * leap - block * step
        window = int((lasts - firsts + begin).max() - begin.min())
        cost = runs * blocks * (size * window + _EXTRA)
        return cost, size, runs, blocks, leap, step, int(begin.min()), window

    _, size, runs, blocks, leap, step, first, window = min(
        layout(min(size, target), runs) for size in _BLOCKS[order] for runs in _RUNS
    )
    run, block = np.divmod(rows // size, blocks)
    weights = np.zeros((runs, blocks, window + taps.shape[1], size), np.float32)
    place = (firsts - first - run * leap - block * step)[:, None] + np.arange(taps.shape[1])
    weights[run[:, None], block[:, None], place, (rows % size)[:, None]] = whole / unit
    # Divided by a power of two, all stay exact.
    bias = np.zeros(runs * blocks * size, np.float32)
    bias[:target] = middle * whole.sum(axis=1) / unit + 0.5 - doubt / 2
    weights = np.ascontiguousarray(weights[:, :, :window])
    return -first, (leap, step), weights, bias, middle, doubt


def _weights(source: int, target: int, kernel: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised weights ``float64 [target, taps]``, 0 behind the last, and their pixels.

    Of these, the first pixel of each result and the one behind its last.
    """
    support, weigh = KERNELS[kernel]
    scale = source / target
    stretch = max(scale, 1.0)
    centre = scale * (np.arange(target) + 0.5)
    first = np.maximum((centre - support * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + support * stretch + 0.5).astype(int), source)
    place = first[:, None] + np.arange((last - first).max())
    taps = weigh((place - centre[:, None] + 0.5) * (1.0 / stretch)) * (place < last[:, None])
    return taps / taps.cumsum(axis=1)[:, -1:], first, last  # added up in order, as torch does


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' bicubic kernel (Keys 1981, "Cubic convolution interpolation")."""
    x = np.abs(x)
    a = _BICUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _linear(x: np.ndarray) -> np.ndarray:
    """The triangle of linear interpolation."""
    return np.maximum(1 - np.abs(x), 0.0)


def _lanczos(x: np.ndarray) -> np.ndarray:
    """Lanczos's kernel of three lobes (Duchon 1979, Journal of Applied Meteorology 18)."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


KERNELS = {"bicubic": (2.0, _cubic), "bilinear": (1.0, _linear), "lanczos": (3.0, _lanczos)}
"""How far a filter reaches in pixels of the smaller side, and its weight at a distance."""


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
