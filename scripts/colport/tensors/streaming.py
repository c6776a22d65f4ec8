"""Tensors that are produced block by block, so that none is ever whole in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

BLOCK_BYTES = 2**26
"""Bytes of a block, unless a single row is larger."""

Blocks = Callable[[], Iterator[np.ndarray]]


class StreamedTensor(ir.LazyTensor):
    """A tensor given by consecutive blocks of rows.

    Args:
        blocks: Called for each pass over the tensor; yields arrays of ``dtype`` that make up the
            tensor when laid one below the other.
        dtype: Element type.
        shape: Shape of the whole tensor.
        name: Name of the tensor.
    """

    __slots__ = ("blocks",)

    def __init__(
        self, blocks: Blocks, dtype: ir.DataType, shape: tuple[int, ...], name: str
    ) -> None:
        super().__init__(self._whole, dtype=dtype, shape=ir.Shape(list(shape)), name=name)
        self.blocks = blocks

    def _whole(self) -> ir.Tensor:
        parts = list(self.blocks())
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        shape = [int(size) for size in self.shape]
        return ir.Tensor(values.reshape(shape), dtype=self.dtype, name=self.name)


def row_ranges(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each of at most :data:`BLOCK_BYTES` or one row."""
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def stored_rows(tensor: ir.TensorProtocol, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor; external ones are read, not mapped: mapped pages count as memory."""
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())[start:stop]
    shape = [int(size) for size in tensor.shape]
    dtype = tensor.dtype.numpy()
    row = math.prod(shape[1:])
    with Path(tensor.path).open("rb") as stream:
        stream.seek((tensor.offset or 0) + start * row * dtype.itemsize)
        values = np.fromfile(stream, dtype=dtype, count=(stop - start) * row)
    return values.reshape(stop - start, *shape[1:])


def stored_blocks(tensor: ir.TensorProtocol, itemsize: int = 0) -> Iterator[np.ndarray]:
    """A tensor's values in storage order, never more than a block of rows at a time.

    Args:
        tensor: Any tensor; only streamed and external ones are cut.
        itemsize: Bytes that the caller makes of a value, where they are more than its own.
    """
    if isinstance(tensor, StreamedTensor):
        yield from tensor.blocks()
    elif isinstance(tensor, ir.ExternalTensor) and len(tensor.shape):
        rows = int(tensor.shape[0])
        size = max(tensor.nbytes, itemsize * tensor.size)
        for start, stop in row_ranges(rows, size // max(rows, 1)):
            yield stored_rows(tensor, start, stop)
    else:
        yield tensor.numpy()
