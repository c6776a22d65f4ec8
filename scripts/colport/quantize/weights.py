"""Integer weights, made from stored matrices while they are written.

Weights of a product are ``[inputs, outputs]``. In eight bits an output channel or a table's row
has one symmetric scale; :func:`blockwise` gives every block of a channel its own.

x86 processors without VNNI multiply bytes by ``vpmaddubsw``, which adds the products of two
neighbouring inputs in 16 bits and saturates: 255 * (127 + 127) is 64770, the most that fits 32767.
The usual remedy (``reduce_range``) takes a bit from every weight. But only two neighbours of one
sign exceed the limit. So a channel's scale is as large as its weights *and the sums of neighbours*
need, which costs 0.3 to 0.6 bits on the embedded default's models, and every sum is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from colport.quantize.rounding import Curvature, gptq, nearest
from colport.tensors.streaming import StreamedTensor, stored_blocks

LARGEST = 127
"""Symmetric in eight bits: -128 is not used."""

LARGEST_SUM = 128
"""Of two neighbouring weights, in the exact range: 255 * 128 = 32640 fits into 16 bits."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A stored matrix whose rows are scaled.

    Attributes:
        tensor: ``float32 [inputs, outputs]``.
        factors: ``float32 [inputs]``; what each row is multiplied by, ``None`` for one.
    """

    tensor: ir.TensorProtocol
    factors: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        rows, columns = (int(size) for size in self.tensor.shape)
        return rows, columns

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Consecutive rows with their place, a block at a time."""
        start = 0
        for values in stored_blocks(self.tensor):
            place = slice(start, start + len(values))
            yield place, values if self.factors is None else values * self.factors[place, None]
            start += len(values)

    def whole(self) -> np.ndarray:
        """All rows."""
        values = np.empty(self.shape, np.float32)
        for place, block in self.blocks():
            values[place] = block
        return values


def per_channel(
    matrix: Matrix, name: str, *, exact: bool, curvature: Curvature | None = None
) -> tuple[StreamedTensor, StreamedTensor]:
    """``int8 [inputs, outputs]`` and one scale a column, ``float32 [outputs]``.

    Args:
        matrix: The weights.
        name: Name of the weight.
        exact: Whether two neighbours stay within :data:`LARGEST_SUM`.
        curvature: Of its activations, for GPTQ; without it each weight is rounded to the nearest.
    """

    @cache
    def scales() -> np.ndarray:
        return channel_scales((values for _, values in matrix.blocks()), exact=exact)

    def codes() -> Iterator[np.ndarray]:
        if curvature is None:
            for _, values in matrix.blocks():
                yield nearest(values / scales(), -LARGEST, LARGEST).astype(np.int8)
            return
        limits = (-LARGEST, LARGEST, LARGEST_SUM if exact else None)
        yield gptq(matrix.whole() / scales(), scales(), curvature, *limits).astype(np.int8)

    return (
        StreamedTensor(codes, ir.DataType.INT8, matrix.shape, f"{name}@int8"),
        StreamedTensor(
            lambda: iter([scales()]), ir.DataType.FLOAT, matrix.shape[1:], f"{name}@scale"
        ),
    )


def per_row(table: Matrix, name: str) -> tuple[StreamedTensor, StreamedTensor]:
    """``int8 [rows, columns]`` and one scale a row, ``float32 [rows, 1]``."""

    def scale(values: np.ndarray) -> np.ndarray:
        return symmetric_scales(np.abs(values).max(axis=1, keepdims=True))

    def codes() -> Iterator[np.ndarray]:
        for _, values in table.blocks():
            yield nearest(values / scale(values), -LARGEST, LARGEST).astype(np.int8)

    def scales() -> Iterator[np.ndarray]:
        for _, values in table.blocks():
            yield scale(values)

    return (
        StreamedTensor(codes, ir.DataType.INT8, table.shape, f"{name}@int8"),
        StreamedTensor(scales, ir.DataType.FLOAT, (table.shape[0], 1), f"{name}@scale"),
    )


def column_sums(
    matrix: Matrix, multiplier: np.float32, bias: ir.TensorProtocol | None, name: str
) -> StreamedTensor:
    """``multiplier * matrix.sum(axis=0) + bias``, ``float32 [outputs]``."""

    def blocks() -> Iterator[np.ndarray]:
        total = np.zeros(matrix.shape[1], np.float64)
        for _, values in matrix.blocks():
            total += values.sum(axis=0, dtype=np.float64)
        total *= multiplier
        yield (total if bias is None else total + bias.numpy()).astype(np.float32)

    return StreamedTensor(blocks, ir.DataType.FLOAT, matrix.shape[1:], name)


def channel_scales(blocks: Iterable[np.ndarray], *, exact: bool) -> np.ndarray:
    """Symmetric scale of each column of a product's weights, ``float32 [outputs]``.

    Args:
        blocks: ``float32 [inputs, outputs]``, consecutive rows.
        exact: Whether two neighbours stay within :data:`LARGEST_SUM`: each is rounded up by half a
            step at most, so that their sum may be :data:`LARGEST` steps before.
    """
    largest, waiting = np.float32(0), None
    for values in blocks:
        largest = np.maximum(largest, np.abs(values).max(axis=0))
        if exact:
            values = values if waiting is None else np.concatenate([waiting, values])
            paired = len(values) // 2 * 2
            sums = np.abs(values[0:paired:2] + values[1:paired:2])
            largest = np.maximum(largest, sums.max(axis=0, initial=0))
            waiting = values[paired:]
    return symmetric_scales(largest)


def symmetric_scales(largest: np.ndarray) -> np.ndarray:
    """Scales at which the largest magnitudes are :data:`LARGEST`; 1 for zeros."""
    return np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
