"""Weights in blocks, as ``com.microsoft::MatMulNBits`` stores them.

For each output channel, blocks of consecutive inputs, each with a scale; four bits have a zero
point a block, too. The layout is ONNX Runtime's: ``B`` is ``uint8 [outputs, blocks, bytes]`` with
the lower half of a byte first, ``scales`` ``[outputs, blocks]``, ``zero_points`` ``uint8 [outputs,
bytes]``, packed likewise (contrib operators, ``MatMulNBits``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from colport.quantize.rounding import Curvature, gptq, nearest
from colport.quantize.weights import LARGEST, Matrix, symmetric_scales
from colport.tensors.streaming import StreamedTensor, row_ranges

_MIDDLE = 128  # of eight bits: the zero point that the operator assumes
_TOP = 15  # of four bits


def blockwise(
    matrix: Matrix, name: str, bits: int, block_size: int, curvature: Curvature | None = None
) -> list[StreamedTensor]:
    """``B``, ``scales`` and, for four bits, ``zero_points``.

    Args:
        matrix: The weights.
        name: Name of the weight.
        bits: 8, symmetric, or 4, with zero points.
        block_size: Inputs that share a scale.
        curvature: Of its activations, for GPTQ; without it each weight is rounded to the nearest.
    """
    inputs, outputs = matrix.shape
    blocks = -(-inputs // block_size)

    def codes() -> Iterator[np.ndarray]:
        weights = matrix.whole()
        integers = None if curvature is None else _gptq(weights, bits, block_size, curvature)
        for place, values in _channels(weights, block_size):
            scales, zero_points = (part[..., None] for part in _ranges(values, bits))
            if integers is None:
                found = nearest(values / scales + zero_points, *_limits(bits))
            else:
                found = np.broadcast_to(zero_points, values.shape).copy()
                found.reshape(len(found), -1)[:, :inputs] = integers[:, place].T
            found = found.astype(np.uint8)
            yield found if bits == 8 else _halves(found)

    def scales() -> Iterator[np.ndarray]:
        for _, values in _channels(matrix.whole(), block_size):
            yield _ranges(values, bits)[0]

    def zero_points() -> Iterator[np.ndarray]:
        for _, values in _channels(matrix.whole(), block_size):
            found = _ranges(values, bits)[1].astype(np.uint8)
            yield _halves(np.pad(found, [(0, 0), (0, blocks % 2)]))

    parts = [
        (codes, ir.DataType.UINT8, (blocks, block_size * bits // 8), f"int{bits}"),
        (scales, ir.DataType.FLOAT, (blocks,), "scale"),
        (zero_points, ir.DataType.UINT8, ((blocks + 1) // 2,), "zero_point"),
    ]
    return [
        StreamedTensor(made, dtype, (outputs, *shape), f"{name}@{part}")
        for made, dtype, shape, part in (parts if bits == 4 else parts[:2])
    ]


def rounded(weights: np.ndarray, bits: int, block_size: int) -> np.ndarray:
    """``float32 [inputs, outputs]``: what is left of the weights in blocks."""
    inputs, outputs = weights.shape
    parts = [values for _, values in _channels(weights, block_size)]
    values = np.concatenate(parts)
    scales, zero_points = (part[..., None] for part in _ranges(values, bits))
    codes = nearest(values / scales + zero_points, *_limits(bits))
    return ((codes - zero_points) * scales).reshape(outputs, -1)[:, :inputs].T


def _limits(bits: int) -> tuple[int, int]:
    """Smallest and largest code."""
    return (_MIDDLE - LARGEST, _MIDDLE + LARGEST) if bits == 8 else (0, _TOP)


def _channels(values: np.ndarray, block_size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """``[outputs, blocks, block_size]``, some outputs at a time; the last block ends in zeros."""
    inputs, outputs = values.shape
    blocks = -(-inputs // block_size)
    for start, stop in row_ranges(outputs, 16 * inputs):
        part = np.zeros((stop - start, blocks * block_size), np.float32)
        part[:, :inputs] = values[:, start:stop].T
        yield slice(start, stop), part.reshape(stop - start, blocks, block_size)


def _ranges(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each block, ``float32 [outputs, blocks]``."""
    if bits == 8:
        largest = np.abs(values).max(axis=2)
        return symmetric_scales(largest), np.full(largest.shape, _MIDDLE, np.float32)
    low = np.minimum(values.min(axis=2), 0)
    high = np.maximum(values.max(axis=2), 0)
    scales = np.where(high > low, (high - low) / _TOP, 1).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, _TOP).astype(np.float32)


def _gptq(weights: np.ndarray, bits: int, block_size: int, curvature: Curvature) -> np.ndarray:
    """Codes, ``[inputs, outputs]``."""
    found = [_ranges(values, bits) for _, values in _channels(weights, block_size)]
    scales, zero_points = (
        np.repeat(np.concatenate(parts), block_size, axis=1)[:, : len(weights)].T
        for parts in zip(*found, strict=True)
    )
    return gptq(weights / scales + zero_points, scales, curvature, *_limits(bits))


def _halves(codes: np.ndarray) -> np.ndarray:
    """Two codes of four bits in a byte, the first in its lower half."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)
