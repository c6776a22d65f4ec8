"""Page images as the reference processors see them, in NumPy and Pillow alone.

transformers resizes ``uint8`` pages with torch's antialiased bicubic filter, whose 16-bit integer
weights round differently from Pillow's (up to 2 of 255 on a pixel). :func:`resize_bicubic` follows
torch's arithmetic, so that pixels are equal, not close.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image

_BICUBIC_A = -0.5  # Keys' cubic convolution parameter, as in Pillow and torch's antialiased filter
_MAX_PRECISION = 22


def rgb_array(page: Image.Image) -> np.ndarray:
    """Pixels of a page, ``uint8 [height, width, 3]``."""
    return np.asarray(page if page.mode == "RGB" else page.convert("RGB"))


def resize_bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic resize, bit-equal to torch's for ``uint8`` images on CPU.

    Args:
        pixels: ``uint8 [height, width, channels]``.
        height: Target height in pixels.
        width: Target width in pixels.

    Returns:
        ``uint8 [height, width, channels]``.
    """
    if pixels.shape[1] != width:
        pixels = _resize_rows(pixels.swapaxes(0, 1), width).swapaxes(0, 1)
    if pixels.shape[0] != height:
        pixels = _resize_rows(pixels, height)
    return np.ascontiguousarray(pixels)


def normalise(pixels: np.ndarray, scale: float, mean: list[float], std: list[float]) -> np.ndarray:
    """``(pixels * scale - mean) / std`` per channel, as the reference fuses it.

    Args:
        pixels: ``uint8 [height, width, channels]``.
        scale: Factor applied to the pixel values first (1/255 for most models).
        mean: Per-channel mean after scaling.
        std: Per-channel standard deviation after scaling.

    Returns:
        ``float32 [channels, height, width]``.
    """
    mean_scaled = np.asarray(mean, np.float32) * np.float32(1.0 / scale)
    std_scaled = np.asarray(std, np.float32) * np.float32(1.0 / scale)
    values = (pixels.astype(np.float32) - mean_scaled) / std_scaled
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _resize_rows(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize the first axis of ``uint8 [n, ...]`` to ``size``."""
    weights, precision = _integer_weights(pixels.shape[0], size)
    flat = pixels.reshape(pixels.shape[0], -1).astype(np.float64)
    # Products and sums stay far below 2**53, so float64 matrix multiplication is exact here.
    sums = weights @ flat + float(1 << (precision - 1))
    values = np.clip(np.floor(sums / float(1 << precision)), 0, 255).astype(np.uint8)
    return values.reshape(size, *pixels.shape[1:])


@lru_cache(maxsize=64)
def _integer_weights(source: int, target: int) -> tuple[np.ndarray, int]:
    """Filter weights as integers in ``float64 [target, source]``, and their binary precision.

    Follows ``_compute_index_ranges_int16_weights`` of torch's CPU upsampling: weights in double,
    normalised to sum 1, then scaled by the largest power of two that keeps them within 16 bits.
    """
    scale = source / target
    support = 2.0 * scale if scale >= 1.0 else 2.0
    inverse = 1.0 / scale if scale >= 1.0 else 1.0
    longest = math.ceil(support) * 2 + 1
    weights = np.zeros((target, source))
    for row in range(target):
        centre = scale * (row + 0.5)
        first = max(int(centre - support + 0.5), 0)
        count = min(max(min(int(centre + support + 0.5), source) - first, 0), longest)
        taps = _cubic((np.arange(count) + first - centre + 0.5) * inverse)
        weights[row, first : first + count] = taps / taps.sum()
    largest = float(weights.max())
    precision = 0
    while precision < _MAX_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < (1 << 15):
        precision += 1
    scaled = weights * (1 << precision)
    return np.trunc(scaled + np.copysign(0.5, scaled)), precision


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' bicubic kernel (Keys 1981, "Cubic convolution interpolation")."""
    x = np.abs(x)
    a = _BICUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
