import numpy as np
import pytest
from scipy.stats import binom

from colport.timing import statistics
from colport.timing.statistics import effective_samples, needed_samples, percentile_interval


def drifting(generator, rounds, samples, drift):
    """Log-normal durations whose level moves from round to round; one in twenty is longer."""
    level = drift * generator.standard_normal((rounds, 1))
    noise = 0.1 * generator.standard_normal((rounds, samples))
    slow = 1 + 0.5 * (generator.random((rounds, samples)) < 0.05)
    return np.exp(level + noise) * slow


def coverage(interval, rounds, samples, drift, share, runs=250):
    generator = np.random.default_rng(5)
    true = np.quantile(drifting(generator, 200_000, 1, drift), share)
    found = [interval(drifting(generator, rounds, samples, drift), share) for _ in range(runs)]
    given = [ends for ends in found if ends[0] is not None]
    return np.mean([low <= true <= high for low, high in given]), len(given) / runs


def independent_interval(rounds, share):
    """What a textbook gives for samples that do not depend on each other."""
    values = np.sort(rounds.ravel())
    return values[int(binom.ppf(0.025, values.size, share)) - 1], values[
        int(binom.ppf(0.975, values.size, share))
    ]


@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_median_is_covered_whatever_the_drift(drift):
    held, given = coverage(percentile_interval, 10, 5, drift, 0.5)
    assert held >= 0.94
    assert given == 1


def test_high_percentile_is_covered():
    held, given = coverage(percentile_interval, 10, 40, 0.05, 0.9)
    assert held >= 0.94
    assert given > 0.7


def test_intervals_for_independent_samples_are_too_narrow():
    held, _ = coverage(independent_interval, 10, 40, 0.1, 0.5)
    assert held < 0.6


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_interval_of_samples_that_no_round_tells_apart_is_the_textbook_s(share):
    """Each of 50 rounds has a value of every twentieth, so that only Student's t takes some."""
    rounds = np.arange(20)[None] + np.arange(50)[:, None] / 50
    worth = int(1000 * (1.96234 / 2.00958) ** 2)
    assert effective_samples(rounds, share) == worth == 953
    # Ranks that the percentile lies beyond with a probability of 2.5% at most.
    low = max(k for k in range(1, worth) if binom.cdf(k - 1, worth, share) <= 0.025)
    high = min(k for k in range(1, worth) if binom.sf(k - 1, worth, share) <= 0.025)
    expected = [(rank / (worth + 1) * 1001 - 1) / 50 for rank in (low, high)]
    assert percentile_interval(rounds, share) == pytest.approx(expected)


def test_samples_that_an_interval_needs():
    assert [needed_samples(share) for share in (0.5, 0.9, 0.95, 0.99)] == [6, 36, 72, 368]
    rounds = np.random.default_rng(0).random((10, 30))
    assert percentile_interval(rounds, 0.99) == (None, None)
    assert percentile_interval(rounds[:5], 0.5) == (None, None)
    assert percentile_interval([[], []], 0.5) == (None, None)


def test_rounds_that_differ_count_as_few_samples():
    rounds = [np.full(50, level) + np.arange(50) * 1e-6 for level in range(1, 11)]
    assert effective_samples(rounds, 0.5) < 10
    # 500 independent samples in ten rounds: Student's t is 1.965 for them, 2.262 for the rounds.
    assert effective_samples([np.ones(50)] * 10, 0.5) == int(500 * (1.96473 / 2.26216) ** 2)
    assert effective_samples([np.arange(50)] * 10, 0.9) == int(500 * (1.96473 / 2.26216) ** 2)
    assert effective_samples([np.arange(50)] * 6, 0.5) == int(300 * (1.96793 / 2.57058) ** 2)
    # Each round as it came from one of two levels: ten samples, less what t takes.
    levels = [np.full(50, level) + np.arange(50) * 1e-6 for level in [1, 2] * 5]
    assert effective_samples(levels, 0.5) == int(9 * (1.96473 / 2.26216) ** 2)
    assert percentile_interval([[3.0] * 50] * 10, 0.5) == (3.0, 3.0)


def test_empty_rounds_do_not_count():
    rounds = list(np.random.default_rng(1).random((8, 20)))
    assert percentile_interval([*rounds, [], []], 0.5) == percentile_interval(rounds, 0.5)


def test_the_effect_of_rounds_of_different_length():
    """Three rounds with 8 of 10 samples below, three with 10 of 40: Korn and Graubard's variance
    of the share of all, over that of 150 independent samples."""
    few, many = np.repeat([0.0, 1.0], [8, 2]), np.repeat([0.0, 1.0], [10, 30])
    share = 54 / 150
    squares = 3 * (8 - 10 * share) ** 2 + 3 * (10 - 40 * share) ** 2
    effect = 6 / 5 * squares / 150**2 / (share * (1 - share) / 150)
    assert statistics._design_effect([few, many] * 3, 0.3) == pytest.approx(effect)


def test_the_drift_of_the_median_counts_for_the_tail():
    """Each round has one long sample of ten; what else it has is of one of two levels."""
    rounds = [
        np.r_[np.full(9, level) + np.arange(9) * 1e-6, 50 + number]
        for number, level in enumerate([1, 2] * 6)
    ]
    assert statistics._design_effect(rounds, 0.95) < 1
    assert effective_samples(rounds, 0.95) == effective_samples(rounds, 0.5) < 15
