import os

import pytest

from colport.latency import noise, statistics
from colport.latency.schedule import Block, is_stable, plan_block, turns
from colport.latency.settings import Case, LatencySettings

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
    def row(variant, case, p50):
        return statistics.make_row("m", variant, "cpu", case, p50_ms=p50)

    rows = [row("pytorch", CASES[0], 10.0), row("int8", CASES[0], 4.0), row("int8", CASES[1], 4.0)]
    rows.append(statistics.make_row("m", "fp16", "cpu", CASES[0], status="failed", reason="r"))
    statistics.add_speedups(rows, [[[10]], [[4]], [[4]], [[]]])
    assert [row["speedup_vs_pytorch"] for row in rows] == [1, 2.5, None, None]


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


def test_quiet_machine_is_not_noisy():
    """However much the pipeline's own jobs have left in the load average."""
    record = noise.describe(3.5, 2, times(busy=110, idle=110, own=19.5) - times())
    assert (record["noisy"], record["load_before"]) == (False, 3.5)
    assert record["others_share"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("load", "after", "reason"),
    [
        (0.0, times(idle=197, steal=3), "the hypervisor gave 3.0%"),
        (0.0, times(busy=120, idle=180, own=20), "other processes took 10.0%"),
        (0.0, times(idle=200, throttled=0.5), "stopped it for 0.50 s"),
    ],
)
def test_noise_is_named(load, after, reason):
    record = noise.describe(load, 2, after - times())
    assert record["noisy"] is True
    assert len(record["reasons"]) == 1
    assert reason in record["reasons"][0]


def test_noise_without_counters():
    record = noise.describe(None, 2, None)
    assert record["noisy"] is False
    assert record["steal_share"] is None
    assert noise.describe(3.0, 2, None)["noisy"] is False
    assert noise.describe(3.5, 2, None)["reasons"] == [
        "the load average was 3.5 on 2 cores before the run"
    ]


def test_counters_are_read_in_seconds(tmp_path):
    tick = os.sysconf("SC_CLK_TCK")
    fields = [value * tick for value in (1, 2, 3, 40, 5, 6, 7, 8, 9, 10)]
    (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, fields))}\ncpu0 0 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1\nthrottled_usec 2500000\n")
    found = noise.read_cpu_times(tmp_path, tmp_path)
    assert (found.busy, found.idle, found.steal, found.throttled) == (19, 45, 8, 2.5)
    assert noise.read_cpu_times(tmp_path / "missing") is None


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
    assert noise.wait_for_quiet(30, read=lambda: None) == 0


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
