"""Rounding of weights to integers: each to the nearest, or so that the product errs least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, lapack

_DAMPING = 0.01  # of the mean diagonal, as published
_BLOCK = 128


def nearest(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Integers next to ``values``, which are in units of their scale."""
    rounded = np.rint(values)
    return np.clip(rounded, low, high, out=rounded)


@dataclass(frozen=True, eq=False)
class Curvature:
    """How much an error in each row of weights matters, and how other rows make up for it.

    Attributes:
        order: Rows, those that large activations meet first.
        factor: Upper triangular ``float32 [inputs, inputs]`` in that order; ``factorᵀ factor`` is
            the inverse of the activations' damped Gram matrix.
    """

    order: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, gram: np.ndarray) -> Curvature:
        """From the Gram matrix ``[inputs, inputs]`` of activations.

        With ``RRᵀ`` the matrix and ``R`` upper triangular, the factor is the inverse of ``R``,
        which is the Cholesky factor of the matrix in reverse order.
        """
        reverse = np.argsort(-gram.diagonal(), kind="stable")[::-1]
        mean = gram.diagonal().mean()
        gram = np.asfortranarray(gram[np.ix_(reverse, reverse)])
        gram[np.diag_indices_from(gram)] += _DAMPING * (mean if mean > 0 else 1.0)
        # In place: an activation of 16,384 channels has a matrix of 1 GB.
        root = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        factor, _ = lapack.strtri(root, lower=1, overwrite_c=1)
        return cls(reverse[::-1], np.ascontiguousarray(factor[::-1, ::-1]))


def gptq(
    values: np.ndarray,
    scales: np.ndarray,
    curvature: Curvature,
    low: int,
    high: int,
    largest_sum: int | None = None,
) -> np.ndarray:
    """Integers whose products with typical activations are closest to those of ``values``.

    Rows are rounded one after the other; those that are left make up for the error (Frantar et
    al. 2023, "GPTQ", arXiv:2210.17323, with its order by activations).

    Args:
        values: ``float32 [inputs, outputs]``, in units of their scale.
        scales: ``float32 [inputs or 1, outputs]``; each value's unit.
        curvature: Of the activations.
        low: Smallest integer.
        high: Largest integer.
        largest_sum: Magnitude that the sum of two neighbours, rows 0 and 1, 2 and 3 and so on,
            does not exceed; ``None`` for any.

    Returns:
        Integers as ``float32 [inputs, outputs]``.
    """
    factor = curvature.factor
    scales = np.broadcast_to(scales, values.shape)[curvature.order]
    left = values[curvature.order] * scales
    rounded = np.empty_like(left)
    limited = {} if largest_sum is None else _rounded_neighbours(curvature.order)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            lowest, highest = low, high
            if row in limited:
                other = rounded[limited[row]]
                lowest = np.maximum(low, -largest_sum - other)
                highest = np.minimum(high, largest_sum - other)
            rounded[row] = np.clip(np.rint(left[row] / scales[row]), lowest, highest)
            error = (left[row] - rounded[row] * scales[row]) / factor[row, row]
            left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], error)
            errors[row - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return rounded[np.argsort(curvature.order)]


def _rounded_neighbours(order: np.ndarray) -> dict[int, int]:
    """Place in the order of each row whose neighbour comes before it, and the neighbour's place."""
    places = np.argsort(order)
    pairs = zip(places[0::2].tolist(), places[1::2].tolist(), strict=False)  # an odd row has none
    return {max(pair): min(pair) for pair in pairs}
