"""What a run makes of its durations, on a clock that only the contenders move."""

import os
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from colport.processes.child import ChildTimeoutError
from colport.timing import rounds
from colport.timing.machine import meters
from colport.timing.rounds import Lane
from colport.timing.settings import Case, Contender, Inputs, LatencySettings
from colport.timing.worker import process, worker
from tests.latency_runs import BOTH_KINDS, ONE_QUERY, QUICK, contender, in_place, run
from tests.unit import test_latency_contenders as contenders

MS = 1_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_latency_contenders", contenders)
    return in_place(monkeypatch, contenders)


def rows_of(*args, **settings):
    return run(*args, affinity=False, **settings)["rows"]


def test_a_known_distribution_is_recovered():
    pattern = list(range(31, 51))
    settings = {"min_samples": 60, "rounds": 5, "settle_calls": 0, "max_seconds": 60.0}
    (row,) = rows_of([contender("pytorch", pattern=pattern)], **settings)
    for percentile in (50, 90, 95, 99):
        assert row[f"p{percentile}_ms"] == pytest.approx(np.percentile(pattern * 3, percentile))
    assert (row["min_ms"], row["max_ms"], row["samples"]) == (31, 50, 60)
    assert row["mean_ms"] == pytest.approx(np.mean(pattern))
    assert row["per_second"] == pytest.approx(1000 / np.mean(pattern))
    assert (row["tokens"], row["speedup_vs_pytorch"], row["truncated"]) == (7, 1, False)
    assert row["first_ms"] == 31
    assert (row["warmup_calls"], row["warmup_stable"]) == (3, True)  # 32, 33 and 34 ms


def test_a_warm_up_that_does_not_settle_ends():
    (row,) = rows_of([contender("fp32", pattern=[10, 20])], warmup_max_calls=6)
    assert (row["warmup_calls"], row["warmup_stable"]) == (6, False)
    (row,) = rows_of(
        [contender("fp32", pattern=[10, 20])], warmup_max_calls=100, warmup_max_seconds=0.1
    )
    assert row["warmup_calls"] == 7  # 20 + 10 + … = 110 ms


def test_a_speedup_is_the_ratio_of_the_same_batch():
    found = rows_of(
        [contender("fp32", pattern=[15]), contender("pytorch", pattern=[30])],
        BOTH_KINDS,
        batch_sizes=(1, 8),
        max_seconds=60.0,
    )
    assert [row["speedup_vs_pytorch"] for row in found] == [2] * 4 + [1] * 4
    assert [row["speedup_low"] for row in found] == [2] * 4 + [1] * 4
    assert [row["p50_ms"] for row in found] == [15, 120, 15, 120, 30, 240, 30, 240]
    assert [row["per_second"] for row in found] == pytest.approx([1000 / 15] * 4 + [1000 / 30] * 4)


def test_a_speedup_is_that_of_single_rounds():
    """Calls of 20 ms, then 40: PyTorch takes 60 throughout, its slow-down is the machine's."""
    fast = [20] * 8 + [40] * 100
    found = rows_of(
        [contender("fp32", pattern=fast), contender("pytorch", pattern=[60])],
        rounds=3,
        min_samples=9,
        max_seconds=60.0,
    )
    # The first call and three to warm up; in a round a settling call and three samples.
    assert (found[0]["speedup_low"], found[0]["speedup_high"]) == (1.5, 3)
    assert found[0]["speedup_vs_pytorch"] == 1.5


def test_settling_calls_are_no_samples():
    payload = run([contender("fp32", pattern=[9])], affinity=False, settle_calls=3)
    (raw,) = payload["samples"]
    assert raw["settle_ns"] == [9 * MS] * 6
    assert raw["rounds_ns"] == [[9 * MS] * 2] * 2
    assert raw["first_ns"] == 9 * MS
    assert raw["warmup_ns"] == [9 * MS] * 3


def test_settling_calls_take_time_of_the_block_and_of_the_case():
    payload = run(
        [contender("fp32", pattern=[10])],
        **{"affinity": False, "settle_calls": 5, "min_samples": 2},
        **{"min_seconds": 0.4, "max_seconds": 0.4},
    )
    # 200 ms a round, 50 of which settle; what the first round left of the 400 is 200 again.
    assert [len(found) for found in payload["samples"][0]["rounds_ns"]] == [15, 15]
    assert payload["samples"][0]["settle_ns"] == [10 * MS] * 10


@pytest.mark.parametrize(
    ("durations", "is_precise"),
    [([100], True), ([100] * 7 + [80] * 3, False), ([100] * 7 + [120] * 3, False)],
)
def test_an_interval_is_narrow_on_both_sides(durations, is_precise):
    case, settings = Case("query", 1), LatencySettings(precision=0.1, rounds=10)
    energy = meters.EnergyMeter()
    lane = Lane(contender("fp32"), [case], ONE_QUERY, settings, ExitStack(), None, energy)
    lane.records[case].rounds_ns = [[value * MS] for value in (durations * 10)[:10]]
    assert lane.is_precise(case) == is_precise


def test_max_seconds_goes_before_min_samples():
    (row,) = rows_of([contender("pytorch", pattern=[60])], max_seconds=0.2, min_samples=50)
    # 100 ms a round: two calls of 60 ms, then what is left of 200 ms, one.
    assert (row["samples"], row["truncated"]) == (4, True)
    (row,) = rows_of([contender("pytorch", pattern=[900])], max_seconds=0.2, min_samples=50)
    assert (row["samples"], row["truncated"]) == (1, True)


def test_min_seconds_adds_samples():
    (row,) = rows_of([contender("pytorch", pattern=[1])], min_seconds=0.1)
    assert (row["samples"], row["truncated"]) == (100, False)
    (row,) = rows_of([contender("pytorch", pattern=[30])], min_seconds=0.1, max_seconds=0.1)
    assert row["truncated"] is False


def test_precise_cases_end_early():
    settings = {"rounds": 30, "min_samples": 60, "max_seconds": 60.0}
    (tight,) = rows_of([contender("fp32", pattern=[20])], precision=0.05, **settings)
    # Six rounds of two samples: fewer hold no median.
    assert (tight["samples"], tight["truncated"]) == (12, False)
    (whole,) = rows_of([contender("fp32", pattern=[20])], precision=0.0, **settings)
    assert whole["samples"] == 60
    both = rows_of(
        [contender("fp32", pattern=[20]), contender("int8", pattern=[10, 30, 20, 40])],
        precision=0.05,
        **settings,
    )
    assert [row["samples"] for row in both] == [60, 60]  # one that is not keeps all


def test_parts_of_a_call():
    (row,) = rows_of([contender("fp32", "in_parts")], batch_sizes=(2,), parts_calls=9)
    assert (row["preprocess_ms"], row["graph_ms"], row["p50_ms"]) == (12, 24, 40)
    payload = run([contender("fp32", "in_parts")], affinity=False, parts_calls=50)
    # 200 ms in a turn, 18 ms each: the one that ends after them is the last.
    assert len(payload["samples"][0]["graph_ns"]) == 12


def test_the_first_call_of_the_parts_does_not_count(monkeypatch):
    class Warms(contenders.InParts):
        def run(self, batch):
            contenders.time.sleep(0 if hasattr(self, "warm") else 5)
            self.warm = True
            return super().run(batch)

    monkeypatch.setattr(contenders, "warms", Warms, raising=False)
    payload = run([contender("fp32", "warms")], affinity=False, parts_calls=3, parts_seconds=1.0)
    assert payload["samples"][0]["graph_ns"] == [12 * MS] * 3
    assert payload["samples"][0]["preprocess_ns"] == [6 * MS] * 3


def test_a_contender_without_parts_has_none():
    (row,) = rows_of([contender("fp32", pattern=[1])])
    assert (row["preprocess_ms"], row["graph_ms"]) == (None, None)


def test_loading_is_timed_without_the_import(clock):
    (row,) = rows_of([contender("fp32", "slow_to_load", seconds=0.25)])
    assert (row["load_ms"], row["import_ms"], row["cold_load_ms"]) == (250, 0, None)
    several = [contender(name, "slow_to_load", seconds=s) for name, s in (("a", 0.25), ("b", 0.5))]
    found = rows_of(several, cold_load=True)
    assert [(row["load_ms"], row["cold_load_ms"]) for row in found] == [(250, 250), (500, 500)]


def test_the_peak_of_memory_is_that_of_the_end(monkeypatch):
    told = iter(range(100, 200))
    monkeypatch.setattr(worker, "peak_rss_mb", lambda: next(told))
    (row,) = rows_of([contender("fp32", pattern=[1])], rounds=2)
    assert row["peak_rss_mb"] == next(told) - 1 == 105  # load, first, warm_up, two blocks, parts


def test_an_import_that_takes_its_time_is_no_loading(clock, monkeypatch):
    def import_module(name):
        clock.sleep(2)
        return contenders

    monkeypatch.setattr(worker, "importlib", SimpleNamespace(import_module=import_module))
    (row,) = rows_of([contender("fp32", "slow_to_load", seconds=0.25)], cold_load=True)
    assert (row["load_ms"], row["import_ms"], row["cold_load_ms"]) == (250, 2000, 250)


@pytest.mark.parametrize(
    ("calls", "asked"),
    [
        (0, {"first": 3.0}),
        (1, {"first": 3.0, "warm_up": 3.5}),
        (4, {"first": 3.0, "warm_up": 3.5, "block": 3.0 + (1 - 0) / 2}),
        (7, {"first": 3.0, "warm_up": 3.5, "block": 3.0 + (1 - 0.003) / 1}),
        (10, {"first": 3.0, "warm_up": 3.5, "block": 3.997, "parts": 3.0 + 0.2}),
    ],
)
def test_every_request_has_a_timeout(calls, asked, clock, monkeypatch):
    """Ten calls: the first, three to warm up, a settling one and two in each of two rounds."""
    given = {}

    class ChildInPlace:
        """Is too late where the clock passes what it was given."""

        pid, is_alive = os.getpid(), False

        def __init__(self, *_, **__):
            self._worker = worker.Worker()

        def ask(self, request, seconds):
            given[request["request"]] = seconds
            begin = clock.now
            reply = self._worker.answer(request)
            if clock.now - begin > seconds * 1e9:
                raise ChildTimeoutError("did not answer", "the last words")
            return reply

        def close(self, grace_s=0.0):
            pass

        close_requests = close

    monkeypatch.setattr(process.Child, "of", ChildInPlace)
    monkeypatch.setattr(rounds, "WorkerProcess", process.WorkerProcess)
    payload = run(
        [contender("int8", "hangs_after", calls=calls)],
        BOTH_KINDS,
        **{"affinity": False, "timeout_s": 3.0, "warmup_max_seconds": 0.5, "max_seconds": 1.0},
        parts_seconds=0.2,
    )
    # Both kinds: the process is gone, and what it had measured with it.
    for row, failure in zip(payload["rows"], payload["failures"], strict=True):
        assert (row["status"], row["reason"]) == ("failed", "did not answer within 3 s (timeout_s)")
        assert failure["detail"] == "the last words"
    assert given == pytest.approx({"load": 3.0, **asked})


def test_inputs_start_again_where_a_batch_is_larger(monkeypatch):
    seen = []

    class Listens(contenders.Sleeper):
        def encode_queries(self, texts, batch_size):
            seen.append(tuple(texts))
            return super().encode_queries(texts, batch_size)

    monkeypatch.setattr(contenders, "listens", lambda: Listens([1]), raising=False)
    inputs = Inputs(queries=("a", "b", "c"))
    payload = run([contender("fp32", "listens")], inputs, affinity=False, batch_sizes=(2, 4))
    assert set(seen) == {("a", "b"), ("a", "b", "c", "a")}
    assert payload["inputs"]["queries"] == ("a", "b", "c")


def test_tokens_are_a_mean_over_the_batch(monkeypatch):
    class Grows(contenders.Sleeper):
        def encode_queries(self, texts, batch_size):
            found = super().encode_queries(texts, batch_size)
            return [np.zeros((index + 1, 4), np.float32) for index in range(len(found))]

    monkeypatch.setattr(contenders, "grows", lambda: Grows([1]), raising=False)
    found = rows_of([contender("fp32", "grows")], batch_sizes=(1, 4))
    assert [row["tokens"] for row in found] == [1, 2.5]


def test_energy_is_that_of_an_input(tmp_path, monkeypatch):
    (tmp_path / "intel-rapl:0").mkdir()
    for name in ("energy_uj", "max_energy_range_uj"):
        (tmp_path / "intel-rapl:0" / name).write_text("1")
    meter = meters.EnergyMeter(tmp_path)
    reading = iter(range(0, 10**9, 1_000_000))
    monkeypatch.setattr(meter, "read", lambda: [next(reading)])
    monkeypatch.setattr("colport.timing.runner.meters.EnergyMeter", lambda: meter)
    (row,) = rows_of([contender("fp32", pattern=[1])], rounds=2, min_samples=4, batch_sizes=(5,))
    # A joule a block, two blocks, each of a settling call and two samples of five inputs.
    assert row["joules_per_input"] == pytest.approx(2 / 30)


def test_the_most_gpu_memory_counts(monkeypatch):
    readings = iter([100.0, 300.0, 200.0])
    monkeypatch.setattr(meters, "gpu_memory_mb", lambda pid: next(readings))
    (row,) = rows_of([contender("fp32", pattern=[1])], batch_sizes=(1, 2))[:1]
    assert row["gpu_peak_mb"] == 300


def test_a_failure_of_one_kind_leaves_the_other():
    query, document = rows_of([contender("int8", pattern=[1], fail_kind="document")], BOTH_KINDS)
    assert (query["status"], query["samples"]) == ("ok", 4)
    assert (document["status"], document["samples"]) == ("failed", None)


def test_contenders_keep_their_place_whatever_their_turns():
    names = [("fp32", "cpu"), ("int8", "cpu"), ("pytorch", "torch-cpu"), ("int8", "cuda")]
    listed = [
        Contender("m", variant, provider, "test_latency_contenders:sleeper", {"pattern": [ms]})
        for ms, (variant, provider) in enumerate(names, start=1)
    ]
    payload = run(listed, affinity=False, rounds=3)
    for part in ("rows", "samples"):
        assert [(row["variant"], row["provider"]) for row in payload[part]] == names
    assert [row["p50_ms"] for row in payload["rows"]] == [1, 2, 3, 4]
    assert [set(np.concatenate(raw["rounds_ns"])) for raw in payload["samples"]] == [
        {ms * MS} for ms in (1, 2, 3, 4)
    ]


def test_a_process_that_is_started_again_changes_nothing_that_is_known():
    settings = LatencySettings(**{**QUICK, "affinity": False})
    case, energy = Case("query", 1), meters.EnergyMeter()
    one = contender("fp32", pattern=[5, *[1] * 20])
    lane = Lane(one, [case], ONE_QUERY, settings, ExitStack(), None, energy)
    lane.start()
    lane._restart(case)
    lane._warm_up(case)  # whose first call takes 1 ms
    assert lane.records[case].first_ns == 5 * MS
    assert len(lane.records[case].outputs) == 1
    assert lane.restarts == ["the process ended at query batch size 1 and was started again"]


def test_a_worker_is_told_what_its_contender_may_take():
    lane = SimpleNamespace(
        contender=contender("fp32", pattern=[1]),
        settings=LatencySettings(threads=3, max_memory_mb=77),
        cores=(1, 5),
        inputs=Inputs(queries=("a",), documents=("b",)),
    )
    told = Lane._load_in(lane, SimpleNamespace(ask=lambda request, **fields: (request, fields)))
    assert told == (
        "load",
        {
            **{"factory": lane.contender.factory, "arguments": dict(lane.contender.arguments)},
            **{"threads": 3, "cores": (1, 5), "max_memory_mb": 77, "forms_batches": False},
            **{
                "queries": ("a",),
                "documents": ("b",),
                "pages": False,
                "timed": ("query", "document"),
            },
        },
    )
