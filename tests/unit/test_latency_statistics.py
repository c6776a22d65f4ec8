import os

import numpy as np
import pytest

from colport.timing import statistics
from colport.timing.machine import noise
from colport.timing.schedule import Block, is_stable, plan_block, turns
from colport.timing.settings import Case, LatencySettings
from colport.timing.statistics import percentile_interval

MS = 1_000_000
CASES = (Case("query", 1), Case("document", 1))


def test_summary_of_known_durations():
    figures = statistics.summarize([value * MS for value in range(1, 102)], batch_size=4)
    assert figures["p50_ms"] == 51
    assert figures["p90_ms"] == 91
    assert figures["p95_ms"] == 96
    assert figures["p99_ms"] == 100
    assert figures["mean_ms"] == 51
    assert (figures["min_ms"], figures["max_ms"]) == (1, 101)
    assert figures["samples"] == 101
    assert figures["per_second"] == pytest.approx(4000 / 51)


def test_percentiles_interpolate_between_samples():
    assert statistics.summarize([10 * MS, 20 * MS], batch_size=1)["p90_ms"] == pytest.approx(19)


def test_round_speedups_skip_rounds_without_samples():
    figures = statistics.compare_rounds([[4, 4], [6], [8]], [[2, 2], [], [2]])
    assert figures == {"speedup_vs_pytorch": 3, "speedup_low": 2, "speedup_high": 4}
    assert statistics.compare_rounds([[1]], [[]])["speedup_vs_pytorch"] is None


def test_a_drift_of_the_machine_moves_no_speedup():
    """It gets four times slower, the reference takes twice as long as the other throughout."""
    reference, other = [[8, 8], [16], [32]], [[4, 4, 4, 4, 4], [8], [16]]
    assert statistics.compare_rounds(reference, other)["speedup_vs_pytorch"] == 2


def test_speedups_compare_the_same_case_only():
    """The contender of 8 inputs is twice as fast as PyTorch with 8, not 16 times slower."""
    durations = {
        ("pytorch", "query", 1): 10,
        ("int8", "query", 1): 4,
        ("pytorch", "query", 8): 80,
        ("int8", "query", 8): 40,
        ("int8", "document", 1): 4,
        ("pytorch", "document", 8): 90,
        ("int8", "document", 8): 30,
    }
    rows = [
        statistics.make_row("m", variant, "cpu", Case(kind, size))
        for variant, kind, size in durations
    ]
    rows.append(statistics.make_row("m", "fp16", "cpu", CASES[0], status="failed", reason="broken"))
    statistics.add_speedups(rows, [[[duration]] for duration in (*durations.values(), 5)])
    found = [row["speedup_vs_pytorch"] for row in rows]
    assert found == [1, 2.5, 1, 2, None, 1, 3, None]


def test_a_reference_that_failed_is_none():
    rows = [
        statistics.make_row("m", "pytorch", "cpu", CASES[0], status="failed", reason="r"),
        statistics.make_row("m", "int8", "cpu", CASES[0]),
    ]
    statistics.add_speedups(rows, [[[10]], [[5]]])
    statistics.add_cosines(rows, [[np.ones((1, 2))], [np.ones((1, 2))]])
    assert [row["speedup_vs_pytorch"] for row in rows] == [None, None]
    assert [row["min_cosine"] for row in rows] == [None, None]


def test_cosines_compare_the_same_case_only():
    outputs = {
        ("pytorch", 1): [[1.0, 0.0]],
        ("pytorch", 2): [[0.0, 1.0]],
        ("int8", 1): [[1.0, 0.0]],
        ("int8", 2): [[0.0, -2.0]],
    }
    rows = [statistics.make_row("m", name, "cpu", Case("query", size)) for name, size in outputs]
    statistics.add_cosines(rows, [[np.array(rows)] for rows in outputs.values()])
    assert [row["mean_cosine"] for row in rows] == [1, 1, 1, -1]


def test_parts_are_told_by_their_median():
    assert statistics.median_ms([1 * MS, 5 * MS, 2 * MS]) == 2
    assert statistics.median_ms([]) is None


def test_intervals_are_in_milliseconds():
    rounds = [[value * MS for value in range(1, 41)]] * 10
    found = statistics.intervals(rounds)
    low, high = percentile_interval(rounds, 0.9)
    assert (found["p90_low_ms"], found["p90_high_ms"]) == (low / MS, high / MS)
    assert found["p50_low_ms"] < 20.5 < found["p50_high_ms"]
    # 400 samples of ten rounds are worth 302, too few for the last one.
    assert (found["p99_low_ms"], found["p99_high_ms"]) == (None, None)


def test_unknown_figure_is_refused():
    with pytest.raises(KeyError, match="p51_ms"):
        statistics.make_row("m", "v", "cpu", CASES[0], p51_ms=1.0)


def test_turns_are_shuffled_and_repeatable():
    first = list(turns(4, CASES, 5, seed=3))
    assert first == list(turns(4, CASES, 5, seed=3))
    assert first != list(turns(4, CASES, 5, seed=4))
    assert all(sorted(order) == [0, 1, 2, 3] for _, _, order in first)
    assert len({tuple(order) for _, _, order in first}) > 1
    assert [(number, case) for number, case, _ in first] == [
        (number, case) for number in range(5) for case in CASES
    ]


def test_blocks_share_the_minima_over_the_rounds():
    settings = LatencySettings(rounds=5, min_samples=20, min_seconds=0.5, max_seconds=10)
    plan = plan_block(settings, 0, 0, 0.0, 0.0, call_seconds=0.01)
    assert plan == Block(settle=1, calls=4, seconds=0.1, max_seconds=2.0)
    last = plan_block(settings, 4, 19, 0.4, 0.5, call_seconds=0.01)
    assert (last.calls, last.seconds, last.max_seconds) == (1, pytest.approx(0.1), 9.5)


def test_slow_calls_are_not_spent_on_settling():
    settings = LatencySettings(rounds=5, min_samples=20, max_seconds=10)
    assert plan_block(settings, 0, 0, 0.0, 0.0, call_seconds=3.0).settle == 0
    assert plan_block(settings, 2, 2, 10.0, 10.0, call_seconds=5.0) is None
    assert plan_block(settings, 4, 0, 0.0, 11.0, call_seconds=5.0) is not None


def test_what_fits_is_settled():
    """A settling call and four samples of half a second are 2.5; a round has 2."""
    settings = LatencySettings(rounds=5, min_samples=20, max_seconds=10)
    assert plan_block(settings, 0, 0, 0.0, 0.0, call_seconds=0.4).settle == 1
    assert plan_block(settings, 0, 0, 0.0, 0.0, call_seconds=0.41).settle == 0
    assert plan_block(settings, 3, 21, 9.0, 9.0, call_seconds=0.1).calls == 1


@pytest.mark.parametrize(
    ("durations", "stable"),
    [
        ([], False),
        ([10, 10], False),
        ([50, 10, 10.5, 11], True),
        ([10, 10, 11.1], False),
    ],
)
def test_stable_means_three_within_ten_percent(durations, stable):
    assert is_stable(durations) is stable


def times(**changes):
    values = {"busy": 100.0, "idle": 100.0, "steal": 0.0, "own": 10.0, "throttled": 0.0}
    return noise.CpuTimes(**{**values, **changes})


def grown(busy=0.0, idle=0.0, steal=0.0, own=0.0, throttled=0.0):
    return noise.CpuTimes(busy, idle, steal, own, throttled)


def test_a_run_of_ours_alone_is_not_noisy():
    """However busy it is, and however much the pipeline's own jobs have left in the load average.

    Of 100 seconds, 2 went to other guests and 5 to other processes: as much as may be.
    """
    record = noise.describe(3.5, 2, grown(busy=80, idle=18, steal=2, own=75))
    assert record == {
        **{"noisy": False, "reasons": [], "load_before": 3.5, "throttled_seconds": 0.0},
        **{"steal_share": 0.02, "others_share": 0.05},
    }


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        (grown(busy=50, idle=47.9, steal=2.1, own=50), "the hypervisor gave 2.1% of the CPU time"),
        (grown(busy=80, idle=20, own=74.9), "other processes took 5.1% of the CPU time"),
        (grown(busy=10, idle=90, own=10, throttled=0.5), "container stopped it for 0.50 s"),
    ],
)
def test_noise_is_named(spent, reason):
    record = noise.describe(0.0, 2, spent)
    assert record["noisy"] is True
    assert len(record["reasons"]) == 1
    assert reason in record["reasons"][0]


def test_counters_that_ran_backwards_are_no_noise():
    record = noise.describe(0.0, 2, grown(busy=5, idle=95, steal=-1, own=9))
    assert (record["steal_share"], record["others_share"], record["noisy"]) == (0, 0, False)
    assert noise.describe(0.0, 2, grown())["others_share"] is None


def test_noise_without_counters():
    record = noise.describe(None, 2, grown())
    assert record["noisy"] is False
    assert record["steal_share"] is None
    assert noise.describe(3.0, 2, grown())["noisy"] is False
    assert noise.describe(3.5, 2, grown())["reasons"] == [
        "the load average was 3.5 on 2 cores before the run"
    ]


def test_counters_are_read_in_seconds(tmp_path):
    tick = os.sysconf("SC_CLK_TCK")
    fields = [value * tick for value in (1, 2, 3, 40, 5, 6, 7, 8, 9, 10)]
    (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, fields))}\ncpu0 0 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1\nthrottled_usec 2500000\n")
    found = noise.read_cpu_times(tmp_path, tmp_path)
    assert (found.busy, found.idle, found.steal, found.throttled) == (19, 45, 8, 2.5)
    assert found.total == 72
    assert noise.read_cpu_times(tmp_path / "missing") == grown()


def test_the_time_of_children_is_our_own(monkeypatch):
    """The workers are children: else every run would count them as others."""
    spent = os.times_result((1, 2, 30, 40, 500))
    monkeypatch.setattr(noise.os, "times", lambda: spent)
    assert noise.read_cpu_times().own == 73


def test_the_share_of_a_busy_window():
    """A tenth of two cores may be in use, by others or by the hypervisor's other guests."""

    def waited(**used):
        readings = iter([grown(), grown(**used)] * 2)
        return noise.wait_for_quiet(0.1, read=lambda: next(readings), sleep=lambda seconds: None)

    assert waited(busy=0.02, idle=0.18) == 0
    assert waited(steal=0.02, idle=0.18) == 0
    assert waited(busy=0.021, idle=0.179) == pytest.approx(0.1)
    assert waited(steal=0.021, idle=0.179) == pytest.approx(0.1)


def fake_machine(busy_windows):
    """Counters of a machine that is busy for so many windows, then idle."""
    state = {"now": times(), "left": busy_windows}

    def sleep(seconds):
        busy = seconds if state["left"] > 0 else 0.0
        state["left"] -= 1
        now = state["now"]
        state["now"] = times(busy=now.busy + busy, idle=now.idle + 2 * seconds - busy)

    return {"read": lambda: state["now"], "sleep": sleep}


def test_waiting_lets_a_burst_pass():
    assert noise.wait_for_quiet(30, **fake_machine(5)) == pytest.approx(0.5)
    assert noise.wait_for_quiet(30, **fake_machine(0)) == 0


def test_waiting_ends_with_its_budget():
    assert noise.wait_for_quiet(1.0, **fake_machine(10**6)) == pytest.approx(1.0)
    assert noise.wait_for_quiet(0, **fake_machine(10**6)) == 0
    for seconds, waited in ((0.16, 0.2), (0.14, 0.1), (0.3, 0.3)):  # to the nearest tenth
        found = noise.wait_for_quiet(seconds, **fake_machine(10**6))
        assert found == pytest.approx(waited)
    assert noise.wait_for_quiet(30, read=grown, sleep=lambda seconds: None) == 0


def test_what_happens_while_waiting_is_not_noise(monkeypatch):
    # At the start, before and after the wait, at the end.
    states = [times(), times(), times(busy=130, idle=130), times(busy=130, idle=190)]
    monkeypatch.setattr(noise, "read_cpu_times", lambda: states.pop(0))
    monkeypatch.setattr(noise, "wait_for_quiet", lambda seconds: min(seconds, 2.0))
    monkeypatch.setattr(noise, "load_average", lambda: 0.0)
    watch = noise.Watch(cores=2, quiet_wait_s=3.0)
    watch.wait_for_quiet()
    record = watch.record()
    assert record["others_share"] == 0
    assert record["waited_seconds"] == 2.0


def test_all_waits_share_one_budget(monkeypatch):
    asked = []
    monkeypatch.setattr(noise, "wait_for_quiet", lambda seconds: asked.append(seconds) or 2.0)
    watch = noise.Watch(cores=2, quiet_wait_s=5.0)
    for _ in range(2):
        watch.wait_for_quiet()
    assert asked == [5.0, 3.0]
    assert watch.record()["waited_seconds"] == 4.0
