"""Cut token embeddings into blocks that fit in memory, read them, and reduce their products."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from colport.scoring.maxsim import products

_REDUCED_TOGETHER = 8192  # products a document; below, calls cost more than strided reading
_FOLDED = 512  # columns; NumPy's maximum of two rows is at full speed from about here
_NUMBERS = "fiub"  # kinds of NumPy's types
_WIDENED_ALONE = 128  # tokens; fewer are not worth a call of ONNX Runtime


class Columns(Protocol):
    """Query tokens side by side, ready to be multiplied."""

    def best(self, rows: np.ndarray, starts: np.ndarray, work: np.ndarray) -> np.ndarray:
        """Find the largest similarity of each query token to each document.

        Args:
            rows: ``[document_tokens, dim]`` float32.
            starts: First row of each document.
            work: One-dimensional float32, at least as large as products and result together.

        Returns:
            ``[documents, query_tokens]`` float32, valid until the next call.
        """


class FloatColumns:
    """Products in float32 on the CPU."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._values = np.ascontiguousarray(np.asarray(tokens, np.float32).T)

    def best(self, rows: np.ndarray, starts: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See :class:`Columns`."""
        columns = self._values.shape[1]
        cut, end = len(rows) * columns, (len(rows) + len(starts)) * columns
        similarities, best = work[:cut].reshape(-1, columns), work[cut:end].reshape(-1, columns)
        products.multiply(rows, self._values, similarities)
        segment_maxima(similarities, starts, best)
        return best


class TorchColumns:
    """Products in float32 on a device; a :class:`Columns`."""

    def __init__(self, tokens: np.ndarray, device: str) -> None:
        import torch

        # A copy: PyTorch takes no read-only memory, as of a memory-mapped file.
        self._values = torch.tensor(np.asarray(tokens, np.float32), device=device).T

    def best(self, rows: np.ndarray, starts: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See :class:`Columns`; the result is not in ``work``."""
        import torch

        lengths = np.diff(np.append(starts, len(rows)))
        device, precision = self._values.device, torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # without TF32 or bfloat16
        try:
            with torch.inference_mode():
                similarities = torch.tensor(rows, device=device) @ self._values
                best = torch.segment_reduce(
                    similarities, "max", lengths=torch.tensor(lengths, device=device), axis=0
                )
                return best.cpu().numpy()
        finally:
            torch.set_float32_matmul_precision(precision)


def default_device() -> str | None:
    """``cuda`` if this process has imported PyTorch and that sees a GPU; it is never imported."""
    torch: Any = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else None


def segment_maxima(values: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Maximum of each run of rows.

    Args:
        values: ``[rows, columns]``.
        starts: First row of each run; no run is empty.
        out: ``[runs, columns]``.
    """
    if len(starts) > 1 and values.size < _REDUCED_TOGETHER * len(starts):
        np.maximum.reduceat(values, starts, axis=0, out=out)
        return
    ends = [*starts[1:].tolist(), len(values)]
    for index, (first, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        _column_maxima(values[first:end], out[index])


def _column_maxima(values: np.ndarray, out: np.ndarray) -> None:
    """Maximum over rows; several rows are taken as one, or NumPy would spend its time on calls."""
    rows, columns = values.shape
    fold = min(rows, _FOLDED // columns)
    if fold < 2:
        np.maximum.reduce(values, axis=0, out=out)
        return
    whole = rows // fold * fold
    wide = np.maximum.reduce(values[:whole].reshape(-1, fold * columns), axis=0)
    np.maximum.reduce(wide.reshape(fold, columns), axis=0, out=out)
    if whole < rows:
        np.maximum(out, np.maximum.reduce(values[whole:], axis=0), out=out)


@dataclass(frozen=True)
class QueryBlock:
    """Queries that are scored together.

    Attributes:
        queries: Their indices, ``[n]``; each has tokens.
        starts: First column of each.
        columns: Their tokens.
    """

    queries: np.ndarray
    starts: np.ndarray
    columns: Columns

    def sums(self, best: np.ndarray) -> np.ndarray:
        """Scores from best matches: ``[documents, query_tokens]`` to ``[n, documents]``."""
        return np.add.reduceat(best, self.starts, axis=1).T


def lengths_of(embeddings: Sequence[np.ndarray], kind: str) -> tuple[np.ndarray, int]:
    """Tokens of each item and the dimension they share (0 if there are no items).

    Raises:
        TypeError: It is no list, or an item holds no real numbers.
        ValueError: An item is not two-dimensional, or dimensions differ.
    """
    if hasattr(embeddings, "offsets"):
        return np.diff(embeddings.offsets), embeddings.dim
    if not hasattr(embeddings, "__getitem__"):
        found = type(embeddings).__name__
        raise TypeError(f"Embeddings of each {kind}: found {found}; allowed is a list of arrays.")
    shapes = [np.shape(item) for item in embeddings]
    for index, item in enumerate(embeddings):
        if (found := np.asarray(item).dtype).kind not in _NUMBERS:
            raise TypeError(f"Embeddings of {kind} {index} are {found}; allowed are real numbers.")
    for index, shape in enumerate(shapes):
        if len(shape) != 2 or shape[1] != shapes[0][1]:
            raise ValueError(
                f"Embeddings of {kind} {index} have shape {shape}; "
                f"allowed is (tokens, dimension) with the dimension of {kind} 0."
            )
    lengths = np.array([shape[0] for shape in shapes], dtype=np.int64)
    return lengths, shapes[0][1] if shapes else 0


def read(
    embeddings: Sequence[np.ndarray], first: int, last: int, begin: int, end: int
) -> np.ndarray:
    """Rows ``begin`` to ``end`` of items ``first`` up to ``last``, one below the other.

    Nothing is copied from a sequence with ``tokens`` (an ``EmbeddingSet``) that stores floats, nor
    from a single item.
    """
    if hasattr(embeddings, "offsets"):
        start = int(embeddings.offsets[first])
        return embeddings.tokens(start + begin, start + end)
    if last - first == 1:
        return np.asarray(embeddings[first])[begin:end]
    return np.concatenate([embeddings[index] for index in range(first, last)])[begin:end]


def as_float32(tokens: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Tokens as contiguous float32: themselves, or a copy in ``work``."""
    if tokens.dtype == np.float32 and tokens.flags.c_contiguous:
        return tokens
    out = work[: tokens.size].reshape(tokens.shape)
    if tokens.dtype == np.float16 and len(tokens) >= _WIDENED_ALONE and tokens.flags.c_contiguous:
        products.widen(tokens, out)
    else:
        np.copyto(out, tokens, casting="same_kind")
    return out


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """First row of each item in their stack."""
    return np.cumsum(lengths) - lengths
