"""Integer weights, made from stored matrices while they are written.

Weights of a product are ``[inputs, outputs]``. In eight bits an output channel or a table's row
has one symmetric scale; :func:`blockwise` gives every block of a channel its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir

from colport.quantize.rounding import Curvature, gptq, nearest
from colport.streaming import StreamedTensor, row_ranges, stored_rows

LARGEST = 127
"""Symmetric in eight bits: -128 is not used."""

Curved = Callable[[], Curvature]
"""Gives the curvature of a product's activations when it is needed."""


class Matrix:
    """A stored matrix whose rows are scaled.

    Args:
        tensor: ``float32 [inputs, outputs]``.
        factors: ``float32 [inputs]``; what each row is multiplied by, ``None`` for one.
    """

    def __init__(self, tensor: ir.TensorProtocol, factors: np.ndarray | None = None) -> None:
        self.tensor, self.factors = tensor, factors

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        rows, columns = (int(size) for size in self.tensor.shape)
        return rows, columns

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Consecutive rows with their place, a block at a time."""
        start = 0
        for values in _stored_blocks(self.tensor):
            place = slice(start, start + len(values))
            yield place, values if self.factors is None else values * self.factors[place, None]
            start += len(values)

    def whole(self) -> np.ndarray:
        """All rows."""
        values = np.empty(self.shape, np.float32)
        for place, block in self.blocks():
            values[place] = block
        return values

    @cached_property
    def channel_scales(self) -> np.ndarray:
        """Symmetric scale of each column, ``float32 [outputs]``."""
        largest = np.zeros(self.shape[1], np.float32)
        for _, values in self.blocks():
            np.maximum(largest, np.abs(values).max(axis=0), out=largest)
        return _scales(largest)


def per_channel(
    matrix: Matrix, name: str, curved: Curved | None = None
) -> tuple[StreamedTensor, StreamedTensor]:
    """``int8 [inputs, outputs]`` and one scale a column, ``float32 [outputs]``.

    Args:
        matrix: The weights.
        name: Name of the weight.
        curved: For GPTQ; without it each weight is rounded to the nearest.
    """
    return (
        StreamedTensor(
            partial(_channel_blocks, matrix, curved), ir.DataType.INT8, matrix.shape, f"{name}@int8"
        ),
        StreamedTensor(
            lambda: iter([matrix.channel_scales]),
            ir.DataType.FLOAT,
            matrix.shape[1:],
            f"{name}@scale",
        ),
    )


def per_row(table: Matrix, name: str) -> tuple[StreamedTensor, StreamedTensor]:
    """``int8 [rows, columns]`` and one scale a row, ``float32 [rows, 1]``."""
    rows, _ = table.shape
    return (
        StreamedTensor(partial(_row_blocks, table), ir.DataType.INT8, table.shape, f"{name}@int8"),
        StreamedTensor(
            lambda: (symmetric_scales(values, 1) for _, values in table.blocks()),
            ir.DataType.FLOAT,
            (rows, 1),
            f"{name}@scale",
        ),
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


def _stored_blocks(tensor: ir.TensorProtocol) -> Iterator[np.ndarray]:
    if isinstance(tensor, StreamedTensor):
        yield from tensor.blocks()
        return
    rows, columns = (int(size) for size in tensor.shape)
    for start, stop in row_ranges(rows, 4 * columns):
        yield stored_rows(tensor, start, stop)


def _channel_blocks(matrix: Matrix, curved: Curved | None) -> Iterator[np.ndarray]:
    scales = matrix.channel_scales
    if curved is not None:
        units = matrix.whole() / scales
        yield gptq(units, scales, curved(), -LARGEST, LARGEST).astype(np.int8)
        return
    for _, values in matrix.blocks():
        yield nearest(values / scales, -LARGEST, LARGEST).astype(np.int8)


def _row_blocks(table: Matrix) -> Iterator[np.ndarray]:
    for _, values in table.blocks():
        yield nearest(values / symmetric_scales(values, 1), -LARGEST, LARGEST).astype(np.int8)


def symmetric_scales(values: np.ndarray, axis: int) -> np.ndarray:
    """The largest magnitude over ``axis``, which is kept with size 1, is :data:`LARGEST` steps."""
    return _scales(np.abs(values).max(axis=axis, keepdims=True))


def _scales(largest: np.ndarray) -> np.ndarray:
    return np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
