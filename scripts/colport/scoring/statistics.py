"""How sure a mean over queries is, and whether two means differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0

_BLOCK_ELEMENTS = 1 << 22


def bootstrap_interval(
    per_query: Sequence[float] | np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries.

    Queries are resampled with replacement (Efron, "Bootstrap methods: another look at the
    jackknife", Annals of Statistics 7, 1979; for retrieval: Sakai, "Evaluating evaluation metrics
    based on the bootstrap", SIGIR 2006).

    Args:
        per_query: ``[n]`` values of one metric.
        confidence: Share of resampled means inside the interval, between 0 and 1.
        resamples: Number of resampled query sets.
        seed: Seed of the generator; the same seed gives the same interval.

    Returns:
        The lower and the upper bound, in the metric's own unit.

    Raises:
        ValueError: There are no values, or a setting is out of range.
    """
    values = _vector(per_query)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1)
            for count in _counts(resamples, len(values))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def paired_randomisation(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """Two-sided p-value of the difference between two means over the same queries.

    Fisher's randomisation test as recommended for retrieval by Smucker, Allan and Carterette,
    "A comparison of statistical significance tests for information retrieval evaluation", CIKM
    2007: under the null hypothesis the two systems' values of a query may be swapped. The observed
    assignment counts as one of the resamples, so p is never 0 (Phipson and Smyth, 2010).

    Args:
        a: ``[n]`` values of one system.
        b: ``[n]`` values of the other system for the same queries in the same order.
        resamples: Number of random assignments.
        seed: Seed of the generator; the same seed gives the same value.

    Returns:
        A value in (0, 1]; 1 if both systems have equal values.

    Raises:
        ValueError: There are no values, the lengths differ, or ``resamples`` is not positive.
    """
    first, second = _vector(a), _vector(b)
    if first.shape != second.shape:
        raise ValueError(f"Paired values differ in number: {len(first)} and {len(second)}.")
    differences = first - second
    observed = abs(differences.sum())
    # Sums that are equal on paper differ by rounding.
    threshold = observed - 1e-12 * np.abs(differences).sum()
    rng = np.random.default_rng(seed)
    extreme = 0
    for count in _counts(resamples, len(differences)):
        signs = rng.integers(2, size=(count, len(differences)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ differences) >= threshold))
    return (extreme + 1) / (resamples + 1)


def _vector(values: Sequence[float] | np.ndarray) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"Values have shape {vector.shape}; allowed is one value a query.")
    return vector


def _counts(resamples: int, queries: int) -> Iterator[int]:
    """Split the resamples into blocks of bounded memory."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be positive.")
    block = max(1, _BLOCK_ELEMENTS // queries)
    for done in range(0, resamples, block):
        yield min(block, resamples - done)
