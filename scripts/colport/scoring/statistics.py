"""How sure a mean over queries is, and whether two means differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE = 0.05
"""A difference with a larger p-value is within noise."""

CONFIDENCE = 1 - SIGNIFICANCE
RESAMPLES = 2000
SEED = 0
SETTINGS = {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED}
"""What a record's statistics are made with, unless its job says otherwise."""

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Whole:
    """A metric of a whole dataset that need be no mean, by what each query or picture adds to it.

    Attributes:
        parts: ``[n, parts]``.
        of: The metric of sums of parts, ``[..., parts]`` to ``[...]``, 0 or more.
    """

    parts: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.parts)


Values = Sequence[float] | np.ndarray | Whole


def estimate(values: Values) -> float:
    """The mean of values, or the metric of a whole dataset."""
    if isinstance(values, Whole):
        return float(values.of(values.parts.sum(axis=0)))
    return float(np.mean(values))


def bootstrap_interval(
    per_query: Values, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries.

    Queries are resampled with replacement (Efron, "Bootstrap methods: another look at the
    jackknife", Annals of Statistics 7, 1979; for retrieval: Sakai, "Evaluating evaluation metrics
    based on the bootstrap", SIGIR 2006).

    Args:
        per_query: ``[n]`` values of one metric, or what it is of the whole.
        confidence: Share of resampled means inside the interval, between 0 and 1.
        resamples: Number of resampled query sets.
        seed: Seed of the generator; the same seed gives the same interval.

    Returns:
        The lower and the upper bound, in the metric's own unit.

    Raises:
        ValueError: There are no values, or a setting is out of range.
    """
    values = per_query.parts if isinstance(per_query, Whole) else _vector(per_query)
    tail = _tails(confidence) / 2
    rng = np.random.default_rng(seed)
    samples = (
        values[rng.integers(len(values), size=(count, len(values)))]
        for count in _counts(resamples, values.size)
    )
    if isinstance(per_query, Whole):
        means = [per_query.of(sample.sum(axis=1)) for sample in samples]
    else:
        means = [sample.mean(axis=1) for sample in samples]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    a: Values,
    b: Values,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    datasets: Sequence[int] = (),
) -> tuple[float, float, float]:
    """Two-sided p-value of the difference between two means over the same queries; its interval.

    Fisher's randomisation test as recommended for retrieval by Smucker, Allan and Carterette,
    "A comparison of statistical significance tests for information retrieval evaluation", CIKM
    2007: under the null hypothesis the two systems' values of a query may be swapped. The observed
    assignment counts as one of the resamples, so p is never 0 (Phipson and Smyth, 2010).

    The interval holds the differences that the test does not reject at ``1 - confidence``, if ``b``
    had them (the test inverted: Lehmann, "Nonparametrics", 1975). So zero lies outside just where
    the test says that the means differ.

    Args:
        a: ``[n]`` values of one system, or what its metric is of the whole.
        b: The same of the other system, for the same queries in the same order.
        confidence: Between 0 and 1.
        resamples: Number of random assignments.
        seed: Seed of the generator; the same seed gives the same values.
        datasets: Number of queries of each dataset, in the order of the values, if the means are
            those of the datasets' means.

    Returns:
        The p-value in (0, 1], 1 if both systems have equal values; the lower and the upper bound of
        ``estimate(a) - estimate(b)``, infinite where so few queries leave nothing to reject.

    Raises:
        ValueError: There are no values, the lengths differ, ``resamples`` is not positive, or
            ``confidence`` is out of range.
    """
    low, high = _as_extreme(a, b, resamples, seed, datasets)
    extreme = int(np.count_nonzero((low <= 0) & (high >= 0)))
    p_value = (extreme + 1) / (resamples + 1)
    most = int(round(_tails(confidence) * (resamples + 1), 6))
    if not most:
        return p_value, -np.inf, np.inf
    return p_value, float(np.sort(low)[most - 1]), float(np.sort(high)[-most])


def share_interval(
    shares: Sequence[Sequence[float]], depths: Sequence[int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of a mean share over queries, of several datasets the mean of their means.

    That of Clopper and Pearson for a proportion (Biometrika 26, 1934), with as many documents as
    those compared are worth, since those of a query are kept or lost together (Korn and Graubard,
    Survey Methodology 24, 1998, section 2). Where all queries are alike it has a width, which a
    bootstrap has not.

    Args:
        shares: ``[queries]`` values from 0 to 1 of each dataset.
        depths: Of how many documents a query's share is, one a dataset.
        confidence: Between 0 and 1.

    Returns:
        The lower and the upper bound; 0 and 1 where a dataset has a single query.

    Raises:
        ValueError: ``confidence`` is out of range.
    """
    from scipy.special import betaincinv, stdtrit

    tail = _tails(confidence) / 2
    sizes = np.array([len(values) for values in shares])
    if (sizes < 2).any():
        return 0.0, 1.0
    compared, mean = sizes * depths, np.mean([np.mean(values) for values in shares])
    variance = np.sum([np.var(values, ddof=1) / len(values) for values in shares]) / len(sizes) ** 2
    worth = len(sizes) ** 2 / np.sum(1 / compared)  # if documents were independent
    if variance > 0:
        worth = min(worth, mean * (1 - mean) / variance)
    worth *= np.divide(*stdtrit([compared.sum() - 1, (sizes - 1).sum()], 1 - tail)) ** 2
    kept = mean * worth
    low = betaincinv(kept, worth - kept + 1, tail) if mean > 0 else 0.0
    high = betaincinv(kept + 1, worth - kept, 1 - tail) if mean < 1 else 1.0
    return float(low), float(high)


def _as_extreme(
    a: Values, b: Values, resamples: int, seed: int, datasets: Sequence[int]
) -> tuple[np.ndarray, ...]:
    """From which to which true difference each random assignment is as extreme as the observed one.

    Of differences ``x`` less a true one ``d``, signs ``s`` and weights ``w``: where
    ``|sum(s * w * (x - d))| >= |sum(w * (x - d))|``, which is so between two roots. Of a metric of
    the whole, ``sum(s * w * x)`` is the difference that it has once values are swapped.
    """
    first, second = (v.parts if isinstance(v, Whole) else _vector(v) for v in (a, b))
    if first.shape != second.shape:
        raise ValueError(f"Paired values differ in number: {len(first)} and {len(second)}.")
    sizes = np.array(datasets or [len(first)])
    if sizes.sum() != len(first) or (sizes < 1).any():
        raise ValueError(f"datasets: found {datasets}; they must add up to {len(first)} values.")
    weights = np.repeat(len(first) / (len(sizes) * sizes), sizes)  # 1 on average
    count = len(first)
    if isinstance(a, Whole):
        differences, middle = first - second, (first + second).sum(axis=0) / 2
        total, size = count * (estimate(a) - estimate(b)), count * (estimate(a) + estimate(b))
    else:
        differences = weights * (first - second)
        total, size = differences.sum(), np.abs(differences).sum()
    rounding = 1e-12 * size  # sums that are equal on paper differ by it
    rng = np.random.default_rng(seed)
    ends = []
    for block in _counts(resamples, count):
        signs = rng.integers(2, size=(block, count), dtype=np.int8) * 2.0 - 1.0
        signed, kept = signs @ differences, signs @ weights
        if isinstance(a, Whole):
            signed = count * (a.of(middle + signed / 2) - a.of(middle - signed / 2))
        one_sign = np.abs(signs.sum(axis=1)) == count  # as extreme whatever is true
        with np.errstate(divide="ignore", invalid="ignore"):
            roots = (total - signed) / (count - kept), (total + signed) / (count + kept)
        ends.append(
            [
                np.where(one_sign, -np.inf, np.minimum(*roots) - rounding),
                np.where(one_sign, np.inf, np.maximum(*roots) + rounding),
            ]
        )
    return tuple(np.concatenate(ends, axis=1))


def _tails(confidence: float) -> float:
    """What lies outside of an interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    return 1 - confidence


def _vector(values: Values) -> np.ndarray:
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
