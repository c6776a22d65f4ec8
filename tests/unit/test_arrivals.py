"""Arrivals, the queue, the search and the stopping rule, against what is known in closed form."""

import math
import time

import numpy as np
import pytest

from colport.timing.server.arrivals import Batching, Clock, poisson_arrivals, serve, simulate
from colport.timing.server.search import (
    NEVER,
    RateSearch,
    allowed_slow,
    needed_requests,
    predict_highest_rate,
    upper_bound,
)

ONE = Batching()
MANY = 200_000


def scripted(arrivals, seconds, **batching):
    return simulate(arrivals, lambda size: seconds, Batching(**batching))


def test_arrivals_are_a_poisson_process():
    gaps = np.diff(poisson_arrivals(50.0, MANY, seed=1), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.01)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.01)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.01)
    # The share of gaps above the mean is that of the exponential distribution.
    assert (gaps > 1 / 50).mean() == pytest.approx(math.exp(-1), rel=0.02)


def test_a_seed_is_one_pattern_at_every_rate():
    slow = poisson_arrivals(1.0, 10, seed=3)
    assert poisson_arrivals(4.0, 10, seed=3) == pytest.approx([time / 4 for time in slow])
    assert poisson_arrivals(1.0, 10, seed=4) != slow


def test_few_arrivals_come_at_the_rate_too():
    starts = []
    for seed in range(2000):
        times = np.array(poisson_arrivals(50.0, 20, seed))
        assert times[-1] == pytest.approx(0.4)
        starts.append(times[0] / times[-1])
    # The least of 19 uniform draws.
    assert np.mean(starts) == pytest.approx(1 / 20, rel=0.05)
    assert np.mean(np.array(starts) > 0.1) == pytest.approx(0.9**19, rel=0.1)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_constant_service_waits_as_md1(load):
    """Pollaczek-Khinchine: mean wait = load * service / (2 (1 - load))."""
    service = 0.01
    arrivals = poisson_arrivals(load / service, MANY, seed=0)
    latencies = np.array(simulate(arrivals, lambda size: service, ONE).latencies)
    expected = load * service / (2 * (1 - load))
    assert (latencies - service).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_exponential_service_stays_as_mm1(load):
    """The time in an M/M/1 system is exponential with rate mu - lambda."""
    mu = 100.0
    services = iter(np.random.default_rng(5).exponential(1 / mu, MANY).tolist())
    arrivals = poisson_arrivals(load * mu, MANY, seed=6)
    latencies = simulate(arrivals, lambda size: next(services), ONE).latencies
    left = mu - load * mu
    assert np.mean(latencies) == pytest.approx(1 / left, rel=0.05)
    assert np.percentile(latencies, 99) == pytest.approx(-math.log(0.01) / left, rel=0.05)


def test_requests_due_during_a_stall_are_late():
    """Latency counts from the scheduled arrival: no coordinated omission."""
    calls = iter([1.0, 0.01, 0.01, 0.01])
    served = simulate([0.0, 0.1, 0.2, 5.0], lambda size: next(calls), ONE)
    assert served.latencies == pytest.approx([1.0, 0.91, 0.82, 0.01])
    assert served.seconds == pytest.approx(5.01)


def test_a_free_server_takes_all_that_wait():
    served = scripted([0.0, 0.1, 0.2, 0.3, 9.0], 1.0, max_batch=2)
    assert served.batches == [1, 2, 1, 1]
    assert served.latencies == pytest.approx([1.0, 1.9, 1.8, 2.7, 1.0])


def test_a_request_waits_for_others_no_longer_than_allowed():
    waiting = {"max_batch": 3, "max_wait_s": 0.5}
    # Full at 0.2, before the half second is over.
    assert scripted([0.0, 0.1, 0.2, 0.3], 1.0, **waiting).latencies == pytest.approx(
        [1.2, 1.1, 1.0, 1.9]
    )
    served = scripted([0.0, 0.4, 0.6], 1.0, **waiting)
    assert served.latencies == pytest.approx([1.5, 1.1, 1.9])
    assert served.batches == [2, 1]


def test_a_decided_run_ends():
    served = simulate(poisson_arrivals(100.0, 1000, 0), lambda size: 1.0, ONE, 0.5, allowed_slow=3)
    assert len(served.latencies) == 4


def test_the_wall_clock_serves_in_real_time():
    clock = Clock()
    begin = time.perf_counter()
    served = serve([0.0, 0.03, 0.031], lambda call: time.sleep(0.01), clock, Batching(max_batch=2))
    assert time.perf_counter() - begin >= 0.04
    assert sum(served.batches) == len(served.latencies) == 3
    assert min(served.latencies) >= 0.01


def test_the_stopping_rule_is_loadgen_s():
    assert needed_requests(0.99) == 459
    assert [allowed_slow(n, 0.99) for n in (0, 458, 459, 661, 662)] == [-1, -1, 0, 0, 1]
    assert allowed_slow(1_000_000, 0.99) == pytest.approx(10_000, rel=0.03)
    for confidence in (0.01, 1 - 0.99**3, 0.5, 0.8, 0.999):  # among them an exact power
        needed = needed_requests(confidence)
        assert allowed_slow(needed - 1, confidence) < 0 <= allowed_slow(needed, confidence)


def test_a_run_that_misses_seldom_passes():
    """A percentile just at the limit is let through with a probability of 1 - confidence."""
    slow = np.random.default_rng(0).binomial(2000, 0.01, 4000)
    passed = (slow <= allowed_slow(2000, confidence=0.9)).mean()
    assert 0.05 < passed <= 0.11


def test_the_bound_is_the_least_limit_that_passes():
    latencies = np.random.default_rng(1).permutation(700).tolist()
    assert allowed_slow(700, 0.99) == 1
    assert upper_bound(latencies, 0.99) == 698
    assert sum(value > 698 for value in latencies) == 1
    assert upper_bound(latencies[:100], 0.99) is None


def run_search(search, truth):
    probes = []
    while (rate := search.next_rate()) is not None:
        probes.append(rate)
        search.record(rate, rate <= truth)
    return probes


@pytest.mark.parametrize("guess", [1.0, 90.0, 100.0, 115.0, 5000.0])
def test_the_search_brackets_the_truth(guess):
    search = RateSearch(guess, resolution=0.05, max_probes=50)
    probes = run_search(search, truth=100.0)
    assert search.passed <= 100.0 < search.failed <= search.passed * 1.0501
    assert len(probes) <= 16
    if 95.3 < guess < 104.9:
        assert len(probes) == 2


def test_the_search_ends_without_an_answer():
    hopeless = RateSearch(100.0, 0.1, max_probes=6)
    assert len(run_search(hopeless, truth=0.0)) == 6
    assert hopeless.passed is None
    assert not hopeless.is_resolved
    boundless = RateSearch(100.0, 0.1, max_probes=4)
    run_search(boundless, truth=math.inf)
    assert boundless.failed is None
    assert boundless.passed > 100.0


def test_the_predicted_rate_is_that_of_mm1():
    """A p99 of T is met up to the rate mu + ln(0.01) / T."""
    mu, limit = 100.0, 0.1
    singles = np.random.default_rng(2).exponential(1 / mu, 20_000)
    found = predict_highest_rate(
        {1: float(np.median(singles))},
        singles.tolist(),
        limit,
        lambda rate: (20_000, 200),
        ONE,
        seed=7,
    )
    assert found == pytest.approx(mu + math.log(0.01) / limit, rel=0.05)


def test_batches_raise_the_predicted_rate():
    service = {1: 0.010, 4: 0.013, 8: 0.016}
    guess = {
        most: predict_highest_rate(
            {size: service[size] for size in service if size <= most},
            [0.010],
            0.05,
            lambda rate: (2000, 10),
            Batching(max_batch=most),
            seed=0,
        )
        for most in (1, 4, 8)
    }
    assert guess[1] < 100.0 < guess[4] < guess[8] < 500.0


def test_a_target_below_the_service_time_gives_a_low_guess():
    found = predict_highest_rate({1: 0.010}, [0.010], 0.005, lambda rate: (459, 0), ONE, seed=0)
    assert 0 < found < 10.0


def test_one_slow_moment_does_not_rule_rates_out():
    def guess(singles, seconds=0.01):
        return predict_highest_rate({1: seconds}, singles, 0.05, lambda rate: (200, 0), ONE, seed=2)

    calm = [0.01] * 79
    assert guess([*calm, 0.2]) == guess(calm) > 10
    assert guess([0.2] * 80, seconds=0.2) == NEVER
