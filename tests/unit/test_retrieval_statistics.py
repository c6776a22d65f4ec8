from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from colport.scoring import statistics
from colport.scoring.statistics import bootstrap_interval, paired_difference, share_interval
from tests.scores import paired_interval, paired_randomisation


def test_interval_of_constant_values_is_a_point():
    assert bootstrap_interval([0.25] * 30) == (0.25, 0.25)


def test_interval_is_near_the_normal_one():
    values = np.random.default_rng(5).normal(0.6, 0.2, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_seed_decides():
    values = np.random.default_rng(6).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_equal_values_have_p_one():
    values = np.random.default_rng(7).random(40)
    assert paired_randomisation(values, values) == 1


def test_clear_difference_has_small_p():
    values = np.random.default_rng(8).random(40)
    assert paired_randomisation(values, values - 0.3, resamples=999) == 1 / 1000
    assert paired_randomisation(values - 0.3, values, resamples=999) == 1 / 1000


def test_p_is_near_the_exact_one():
    differences = np.array([0.3, -0.1, 0.2, 0.25, -0.05, 0.4, 0.1, 0.0])
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=8)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_randomisation(differences, np.zeros(8)) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_sums_that_are_equal_on_paper_count_as_equal(seed):
    """Differences in tenths, whose sums differ by rounding: counted exactly in whole numbers."""
    tenths = np.random.default_rng(seed).integers(-4, 5, size=8)
    sums = np.array(list(product((1, -1), repeat=8))) @ tenths
    exact = np.mean(np.abs(sums) >= abs(tenths.sum()))
    found = paired_randomisation(0.1 * np.maximum(tenths, 0), 0.1 * np.maximum(-tenths, 0))
    assert found == pytest.approx(exact, abs=0.015)


def test_gains_and_losses_that_cancel_out_are_no_difference():
    first, second = [0.1, 0.2, 0.0] * 2, [0.0, 0.0, 0.3] * 2
    assert np.subtract(first, second).sum() != 0
    assert paired_randomisation(first, second) == 1


def test_the_observed_assignment_counts_as_one():
    """A single query: both assignments are as extreme as the observed one."""
    values = np.arange(1.0, 31.0)
    assert paired_randomisation(values, -values, resamples=9) == 1 / 10
    assert paired_randomisation([1.0], [0.0], resamples=9) == 1


def test_single_query_says_nothing():
    assert paired_randomisation([1.0], [0.0]) == 1
    assert paired_interval([1.0], [0.0]) == (-math.inf, math.inf)


def differences():
    """Values of two systems over 1 to 60 queries: rounded ones, ties, small and large gaps."""
    rng = np.random.default_rng(3)
    for number in range(150):
        first = np.round(rng.random(1 + number % 60), 1 + number % 4)
        moved = np.clip(first + rng.normal(0.05, 0.1, len(first)), 0, 1)
        yield first, np.where(rng.random(len(first)) < 0.5, first, moved)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_zero_lies_outside_just_where_the_test_rejects_it(confidence):
    rejected = 0
    for first, second in differences():
        p_value = paired_randomisation(first, second, resamples=200)
        low, high = paired_interval(first, second, confidence, resamples=200)
        assert low <= (first - second).mean() <= high
        assert (p_value <= 1 - confidence) == (not low <= 0 <= high)
        rejected += p_value <= 1 - confidence
    assert 20 < rejected < 130


def test_an_interval_holds_what_the_test_does_not_reject():
    """Just inside of each end a true difference is not rejected, just outside it is."""
    first, second = np.random.default_rng(4).random((2, 25))
    ends = paired_interval(first, second)
    assert -0.3 < ends[0] < (first - second).mean() < ends[1] < 0.3
    for end, out in zip(ends, (-1e-6, 1e-6), strict=True):
        assert paired_randomisation(first - end - out, second) <= 0.05
        assert paired_randomisation(first - end + out, second) > 0.05


def test_an_interval_moves_and_turns_with_the_difference():
    first, second = np.random.default_rng(5).random((2, 30))
    low, high = paired_interval(first, second)
    assert paired_interval(first + 0.25, second) == pytest.approx((low + 0.25, high + 0.25))
    assert paired_interval(3 * first, 3 * second) == pytest.approx((3 * low, 3 * high))
    assert paired_interval(second, first) == pytest.approx((-high, -low))
    assert paired_interval(first, first) == (0, 0)
    wide, narrow = (paired_interval(first, second, share) for share in (0.99, 0.8))
    assert wide[0] < low < narrow[0] < narrow[1] < high < wide[1]


def test_a_share_s_interval_is_clopper_and_pearson_s_where_a_query_has_one_document():
    """Then documents are as independent as queries, and are worth themselves less one."""
    values = [1] * 30 + [0] * 10
    exact = binomtest(30, 40).proportion_ci(method="exact")
    low, high = share_interval([values], [1])
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.01)
    assert low <= exact.low
    assert high >= exact.high


def test_a_share_of_queries_that_are_all_alike_is_not_known_exactly():
    for share, ends in ((1.0, (0.9, 1.0)), (0.0, (0.0, 0.1))):
        low, high = share_interval([[share] * 6], [10])
        assert low == (ends[0] and pytest.approx(0.903, abs=1e-3))
        assert high == (pytest.approx(0.097, abs=1e-3) if ends[1] < 1 else 1)
    assert share_interval([[1.0] * 5], [10])[0] < 0.9
    assert share_interval([[1.0] * 12], [3])[0] < 0.9  # fewer documents say less
    assert share_interval([[1.0]], [10]) == (0, 1)
    assert share_interval([[1.0], [1.0] * 90], [10, 10]) == (0, 1)


@pytest.mark.parametrize("sizes", [(10,), (40,), (10, 40, 15)])
def test_a_share_s_interval_holds_it_in_95_of_100_samples(sizes):
    rng, held = np.random.default_rng(5), 0
    for _ in range(300):  # documents of a query are kept or lost together
        samples = [rng.binomial(10, rng.beta(9, 1, size)) / 10 for size in sizes]
        low, high = share_interval(samples, [10] * len(sizes))
        held += low <= 0.9 <= high
        assert low <= np.mean([values.mean() for values in samples]) <= high
    assert held / 300 > 0.92


def test_a_share_s_interval_narrows_with_queries_and_with_what_they_share():
    widths = [
        np.diff(share_interval([values], [10]))[0]
        for values in ([0.9] * 40, [1.0, 0.8] * 20, [1.0, 0.5] * 20, [1.0, 0.5] * 5)
    ]
    assert widths == sorted(widths)
    assert share_interval([[1, 0.5] * 9], [2]) == share_interval([[0.5, 1] * 9], [2])


def test_blocks_cover_all_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 64)
    values = np.random.default_rng(9).random(20)
    assert paired_randomisation(values, values - 0.3, resamples=100) == 1 / 101
    low, high = bootstrap_interval(values, resamples=500)
    assert low < values.mean() < high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "one value a query"),
        (lambda: bootstrap_interval([1.0], confidence=95), "confidence is 95"),
        (lambda: share_interval([[1.0, 1.0]], [1], confidence=95), "confidence is 95"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples is 0"),
        (lambda: paired_randomisation([1.0], [1.0, 2.0]), "1 and 2"),
        (lambda: paired_interval([1.0], [1.0, 2.0]), "1 and 2"),
        (lambda: paired_interval([1.0], [1.0], confidence=95), "confidence is 95"),
        (lambda: paired_difference([1, 2, 3], [1, 2, 3], datasets=[1, 1]), "add up to 3 values"),
        (lambda: paired_difference([1, 2, 3], [1, 2, 3], datasets=[3, 0]), "add up to 3 values"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
