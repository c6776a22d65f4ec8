"""Rounding of weights to integers: each to the nearest, or so that the product errs least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky

_DAMPING = 0.01  # of the mean diagonal, as published
_ROWS = 16  # that are rounded one by one, before a matrix product passes their errors on


def nearest(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Integers next to ``values``, which are in units of their scale."""
    rounded = np.rint(values)
    return np.clip(rounded, low, high, out=rounded)


@dataclass(frozen=True, eq=False)
class Curvature:
    """How much an error in each row of weights matters, and how other rows make up for it.

    Attributes:
        order: Rows; those that large activations meet come last, and are rounded first.
        factor: Unit lower triangular ``float32 [inputs, inputs]`` in that order: ``L`` of the
            activations' damped Gram matrix ``L D Lᵀ``.
    """

    order: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, gram: np.ndarray) -> Curvature:
        """From the Gram matrix ``[inputs, inputs]`` of activations."""
        order = np.argsort(-gram.diagonal(), kind="stable")[::-1]
        mean = gram.diagonal().mean()
        # In place: an activation of 16,384 channels has a matrix of 1 GB. LAPACK's are transposed.
        gram = gram.take(order, axis=0).take(order, axis=1).T
        gram[np.diag_indices_from(gram)] += _DAMPING * (mean if mean > 0 else 1.0)
        factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        factor /= factor.diagonal().copy()
        return cls(order, factor)


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
    al. 2023, "GPTQ", arXiv:2210.17323, with its order by activations). Computed as in Chee et al.
    2023, "QuIP", arXiv:2307.13304, theorem 6: with the same result, and without an inverse.

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
    factor, order = curvature.factor, curvature.order
    scales = np.broadcast_to(scales, values.shape)[order]
    errors = values[order] * scales  # of the rows that are rounded, and the others' weights
    left, rounded = errors.copy(), np.empty_like(errors)
    limited = {} if largest_sum is None else _rounded_neighbours(order)

    def round_rows(start: int, stop: int) -> None:
        if stop - start > _ROWS:
            middle = (start + stop) // 2
            round_rows(middle, stop)
            left[start:middle] += factor[middle:stop, start:middle].T @ errors[middle:stop]
            round_rows(start, middle)
            return
        for row in reversed(range(start, stop)):
            lowest, highest = low, high
            if row in limited:
                other = rounded[limited[row]]
                lowest = np.maximum(low, -largest_sum - other)
                highest = np.minimum(high, largest_sum - other)
            rounded[row] = np.clip(np.rint(left[row] / scales[row]), lowest, highest)
            errors[row] -= rounded[row] * scales[row]
            left[start:row] += np.outer(factor[row, start:row], errors[row])

    round_rows(0, len(left))
    return rounded[np.argsort(order)]


def _rounded_neighbours(order: np.ndarray) -> dict[int, int]:
    """Place in the order of each row whose neighbour is rounded before it, and that one's place."""
    places = np.argsort(order)
    pairs = zip(places[0::2].tolist(), places[1::2].tolist(), strict=False)  # an odd row has none
    return {min(pair): max(pair) for pair in pairs}
