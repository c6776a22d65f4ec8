"""The scenarios on contenders of known duration, and the rows that come of them."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from colport.base.errors import ConfigError
from colport.timing.server import rows as scenario_rows
from colport.timing.server import scenarios
from colport.timing.server.arrivals import Batching, poisson_arrivals, simulate
from colport.timing.server.rows import COLUMNS
from colport.timing.server.scenarios import ScenarioLane, measure
from colport.timing.server.search import (
    NEVER,
    Probe,
    RateSearch,
    ServerRun,
    plan_given,
    plan_probe,
    predict_highest_rate,
)
from colport.timing.server.settings import (
    SCENARIOS,
    OfflineSettings,
    ScenarioCase,
    ScenarioSettings,
    ServerSettings,
)
from colport.timing.settings import Inputs, LatencySettings
from tests.latency_runs import contender, in_place
from tests.unit import test_latency_contenders as contenders

HERE = Path(__file__).parent
INPUTS = Inputs(queries=("a", "bb", "ccc"), documents=("d", "ee"))
QUICK = {
    "run": SCENARIOS,
    "inputs": 3,
    "rounds": 2,
    "min_seconds": 0.0,
    "max_seconds": 5.0,
    "warmup_calls": 1,
    "quiet_wait_s": 0.0,
    "timeout_s": 60.0,
    "offline": {"batch_sizes": [1, 2], "min_seconds": 0.0},
    "server": {
        "max_batch": 2,
        "confidence": 0.5,
        "min_seconds": 0.0,
        "max_seconds": 5.0,
        "resolution": 0.5,
        "max_probes": 3,
        "p99_ms": {"query": 200.0},
        "p99_multiple": 50.0,
    },
}


@pytest.fixture(autouse=True)
def _contenders_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def run(contenders, inputs=INPUTS, **settings):
    chosen = ScenarioSettings(**{**QUICK, **settings}, threads=1)
    return measure(contenders, inputs, chosen, progress=lambda message: None)


def chosen_rows(record, **where):
    return [
        row
        for row in record["rows"]
        if row["best"] and all(row[key] == value for key, value in where.items())
    ]


@pytest.fixture(scope="module")
def record():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        found = run(
            [contender("pytorch", pattern=[4]), contender("fp32", pattern=[1])],
            server={**QUICK["server"], "rates": {"document": [40.0]}},
        )
    return json.loads(json.dumps(found))


def test_every_scenario_has_a_row_that_stands_for_it(record):
    names = [(r["variant"], r["kind"], r["scenario"]) for r in record["rows"] if r["best"]]
    assert names == [
        (variant, kind, scenario)
        for variant in ("pytorch", "fp32")
        for kind in ("query", "document")
        for scenario in ("single_stream", "offline", "server")
    ]
    assert all(tuple(row) == COLUMNS for row in record["rows"])
    assert {row["status"] for row in record["rows"]} == {"ok"}
    assert record["failures"] == []


def test_single_stream_calls_every_input_as_often(record):
    (row,) = chosen_rows(record, variant="pytorch", scenario="single_stream", kind="query")
    assert row["samples"] == 2 * 3
    assert row["p50_ms"] >= 4
    assert row["per_second"] <= 1000 / 4
    assert not row["stopped"]
    assert row["speedup_vs_pytorch"] == 1


def test_offline_counts_inputs_and_takes_the_best_batch(record):
    rows = [
        row
        for row in record["rows"]
        if (row["variant"], row["scenario"], row["kind"]) == ("fp32", "offline", "query")
    ]
    assert [row["batch_size"] for row in rows] == [1, 2]
    assert [row["samples"] for row in rows] == [6, 6]
    best = max(rows, key=lambda row: row["per_second"])
    assert [row["best"] for row in rows] == [row is best for row in rows]
    # The contender takes a millisecond an input, whatever the batch.
    assert best["per_second"] <= 1000
    calls = next(
        call["rounds_ns"]
        for call in record["samples"][1]["calls"]
        if (call["scenario"], call["kind"], call["batch_size"]) == ("offline", "query", 2)
    )
    taken = sum(duration for durations in calls for duration in durations)
    assert rows[1]["per_second"] == pytest.approx(6e9 / taken)


def test_a_server_s_rows_follow_from_its_samples(record):
    assert record["targets"]["query"] == 200.0
    stream = chosen_rows(record, variant="pytorch", scenario="single_stream", kind="document")
    assert record["targets"]["document"] == pytest.approx(50 * stream[0]["p50_ms"])
    probes = record["samples"][1]["probes"]
    rows = [r for r in record["rows"] if (r["variant"], r["scenario"]) == ("fp32", "server")]
    assert len(rows) == len(probes)
    for row, probe in zip(rows, probes, strict=True):
        slow = sum(latency > row["target_ms"] * 1e6 for latency in probe["latencies_ns"])
        assert row["slow"] == slow
        assert row["samples"] == len(probe["latencies_ns"]) == sum(probe["batches"])
        assert row["stopped"] == (row["samples"] < probe["requests"])
        assert row["meets_target"] == (slow <= row["allowed_slow"] and not row["stopped"])
        if row["meets_target"]:
            assert row["p99_bound_ms"] <= row["target_ms"]
    for row in chosen_rows(record, scenario="server"):
        if row["meets_target"]:
            assert row["highest_rate"] == row["rate"]


def test_a_given_rate_is_measured_to_its_end(record):
    rows = [row for row in record["rows"] if row["rate"] == 40.0]
    assert {row["variant"] for row in rows} == {"pytorch", "fp32"}
    assert not any(row["stopped"] or row["best"] for row in rows)
    assert all(row["samples"] == plan_probe(40.0, row["target_ms"], server())[0] for row in rows)


def test_a_given_rate_that_proves_nothing_is_measured_all_the_same():
    """It is too low for as many requests as the confidence needs within max_seconds."""
    bounds = {"max_seconds": 1.0, "max_probes": 1, "rates": {"query": [20.0]}}
    found = run(
        [contender("fp32", pattern=[1])],
        Inputs(queries=("a",)),
        run=["server"],
        server={**QUICK["server"], **bounds},
    )
    (row,) = (row for row in found["rows"] if row["rate"] == 20.0)
    assert (row["status"], row["samples"], row["stopped"]) == ("ok", 20, False)
    assert (row["allowed_slow"], row["meets_target"], row["p99_bound_ms"]) == (-1, None, None)


def test_failures_stay_where_they_happened():
    found = run(
        [
            contender("int8", pattern=[1], fail_kind="document"),
            contender("fp16", "dies"),
            contender("int4", "unsupported"),
            dataclasses.replace(contender("pytorch", pattern=[1]), note="a note"),
        ],
        run=["offline", "server"],
        server={**QUICK["server"], "max_probes": 1},
    )
    status = {}
    for row in found["rows"]:
        status.setdefault((row["variant"], row["kind"]), set()).add(row["status"])
    assert status["int8", "query"] == status["pytorch", "document"] == {"ok"}
    assert status["int8", "document"] == status["fp16", "query"] == {"failed"}
    assert status["int4", "query"] == status["int4", "document"] == {"unsupported"}
    assert {row["scenario"] for row in found["rows"]} == {"offline", "server"}
    noted = {row["variant"] for row in found["rows"] if row["reason"].startswith("a note")}
    assert noted == {"pytorch"}
    reasons = {row["variant"]: row["reason"] for row in found["rows"] if row["status"] == "failed"}
    assert reasons["int8"] == "ValueError: no document today second line"
    assert reasons["fp16"].startswith("killed by SIGSEGV")
    assert {failure["variant"] for failure in found["failures"]} == {"int8", "fp16", "int4"}


def test_a_hang_fails_its_contender_only():
    found = run(
        [contender("int8", pattern=[1], hang_kind="document"), contender("pytorch", pattern=[1])],
        run=["single_stream"],
        timeout_s=4.0,
    )
    assert [row["status"] for row in found["rows"]] == ["failed", "failed", "ok", "ok"]
    assert found["rows"][0]["reason"] == "did not answer within 4 s (timeout_s)"


def status(record):
    names = ("variant", "kind", "scenario", "batch_size")
    return {tuple(row[name] for name in names): row["status"] for row in record["rows"]}


def test_memory_that_runs_out_is_a_limit_of_larger_batches():
    found = run(
        [contender("int8", "says_no", message="std::bad_alloc"), contender("pytorch", pattern=[1])],
        Inputs(documents=("a", "b", "c", "d")),
        offline={"batch_sizes": [1, 4], "min_seconds": 0},
        server={**QUICK["server"], "max_batch": 4},
    )
    of_int8 = {key: value for key, value in status(found).items() if key[0] == "int8"}
    assert of_int8 == {
        ("int8", "document", "single_stream", 1): "ok",
        ("int8", "document", "offline", 1): "ok",
        ("int8", "document", "offline", 4): "unsupported",
        ("int8", "document", "server", 4): "unsupported",
    }
    reasons = {row["reason"] for row in found["rows"] if row["status"] == "unsupported"}
    assert reasons == {"out of memory at batch size 4; the largest that ran is 1"}


def test_a_server_that_is_killed_spoils_nothing_else():
    found = run(
        [contender("int8", "killed", calls=2)],
        Inputs(queries=("q",), documents=("a", "b", "c", "d")),
        offline={"batch_sizes": [1], "min_seconds": 0},
        server={**QUICK["server"], "max_batch": 4},
    )
    (row,) = (row for row in found["rows"] if row["status"] != "ok")
    assert (row["kind"], row["scenario"], row["status"]) == ("document", "server", "failed")
    assert row["reason"] == "killed by SIGKILL (often: out of memory) as a server"
    again = "the process ended at document batch size 4 and was started again"
    assert all(row["reason"].startswith(again) for row in found["rows"] if row["status"] == "ok")


def test_a_bracket_never_widens():
    """Probes may contradict what is known: the server's own luck."""
    search = RateSearch(10.0, 0.01, 9)
    for rate, passed in ((10.0, True), (5.0, True), (40.0, False), (90.0, False)):
        search.record(rate, passed)
    assert (search.passed, search.failed) == (10.0, 40.0)


@pytest.fixture
def clock(monkeypatch):
    """Time that only the contenders' calls take; what they were given is kept."""
    seen = []

    class Listens(contenders.Sleeper):
        def encode_queries(self, texts, batch_size):
            seen.append(tuple(texts))
            return super().encode_queries(texts, batch_size)

    monkeypatch.setattr(contenders, "listens", lambda ms: Listens([ms]), raising=False)
    monkeypatch.setitem(sys.modules, "test_latency_contenders", contenders)
    in_place(monkeypatch, contenders)
    return seen


def test_figures_are_those_of_the_calls(clock):
    found = run(
        [contender("pytorch", "listens", ms=8), contender("fp32", "listens", ms=2)],
        run=["single_stream", "offline"],
        affinity=False,
        min_seconds=0.1,
    )
    rows = {
        (row["variant"], row["scenario"], row["batch_size"]): row
        for row in found["rows"]
        if row["kind"] == "query"
    }
    stream, offline = rows["fp32", "single_stream", 1], rows["pytorch", "offline", 2]
    assert (stream["p50_ms"], stream["p99_ms"], stream["per_second"]) == (2, 2, 500)
    assert stream["speedup_vs_pytorch"] == 4
    assert stream["samples"] % 3 == 0
    assert 0.1 <= stream["samples"] * 0.002 < 0.1 + 3 * 0.002
    assert (offline["per_second"], offline["samples"], offline["p50_ms"]) == (125, 2 * 3, None)


@pytest.mark.parametrize("is_sorted", [True, False])
def test_offline_puts_inputs_of_like_length_together(clock, is_sorted):
    offline = {"batch_sizes": [2], "sort_by_length": is_sorted, "min_seconds": 0}
    inputs = Inputs(queries=("ccc", "a", "dddd", "bb", "eeeee"))
    run(
        *([contender("pytorch", "listens", ms=1)], inputs),
        **{"run": ["offline"], "affinity": False, "offline": offline},
    )
    expected = {("a", "bb"), ("ccc", "dddd")} if is_sorted else {("ccc", "a"), ("dddd", "bb")}
    assert set(clock) == expected | {(text,) for text in inputs.queries}
    # A call that does not count, then the whole pass, in each of two rounds.
    assert len(clock[-4:]) == len({*clock[-3:]}) + 1 == 4


def test_the_search_starts_from_median_calls_of_every_size(monkeypatch):
    asked = []

    def timed(lane, case, sizes):
        asked.append(sizes)
        return [sizes[0] * ms * 1_000_000 for ms in (90, 10, 20)[: len(sizes)]]

    monkeypatch.setattr(ScenarioLane, "_timed", timed)
    monkeypatch.setattr(ScenarioLane, "single_seconds", lambda lane, kind: [0.09, 0.01, 0.02])
    lane = object.__new__(ScenarioLane)
    found = lane._service_seconds(ScenarioCase("query", 5, "server"))
    assert found == pytest.approx({1: 0.02, 2: 0.04, 4: 0.08, 5: 0.1})
    assert asked == [[2] * 3, [3], [4] * 3, [5] * 3]


def server(**changes):
    return ServerSettings(**{**QUICK["server"], **changes})


def simulated_probe(rate, service_s, settings, target_ms, seed=0):
    """``service_s`` is the seconds of a call, or a function of its requests."""
    requests, allowed = plan_probe(rate, target_ms, settings)
    served = simulate(
        poisson_arrivals(rate, requests, seed),
        service_s if callable(service_s) else lambda size: service_s,
        Batching(settings.max_batch),
        target_ms / 1e3,
        allowed,
    )
    latencies = [round(latency * 1e9) for latency in served.latencies]
    return Probe(rate, requests, allowed, latencies, served.batches, served.seconds)


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_the_search_recovers_the_rate_of_md1(confidence):
    """Against the rate at which 99% of a long simulated M/D/1 queue stay within the target."""
    service, target_ms = 0.010, 50.0
    settings = server(max_batch=1, confidence=confidence, min_seconds=800.0, max_seconds=1e6)
    run = ServerRun(target_ms, RateSearch(53.0, 0.02, 20), settings)
    while (rate := run.next_rate()) is not None:
        run.record(simulated_probe(rate, service, settings, target_ms))
    truth = predict_highest_rate(
        {1: service}, [service], target_ms / 1e3, lambda rate: (100_000, 1000), Batching(), seed=9
    )
    assert run.search.passed == pytest.approx(truth, rel=0.05)
    assert run.best().rate == run.search.passed
    assert run.remark() == ""
    rows = scenario_rows.server_rows(contender("fp32"), "query", run)
    best = [row for row in rows if row["best"]]
    assert [row["highest_rate"] for row in best] == [run.search.passed]
    assert best[0]["p99_ms"] <= best[0]["p99_bound_ms"] <= target_ms
    assert best[0]["failed_rate"] <= 1.021 * best[0]["highest_rate"]


def test_short_probes_of_a_batching_server_are_right_on_average():
    """A rate beyond what the server can do must not pass because the probe ends too early."""
    settings = server(max_batch=8, confidence=0.8, resolution=0.2, min_seconds=0.3)
    target_ms, service = 60.0, [0.0016 + 0.00125 * size for size in range(1, 9)]
    truth = predict_highest_rate(
        dict(enumerate(service, start=1)),
        [service[0]],
        target_ms / 1e3,
        lambda rate: (50_000, 500),
        Batching(8),
        seed=9,
    )
    found = []
    for seed in range(50):
        run = ServerRun(target_ms, RateSearch(truth * (0.8 + seed / 120), 0.2, 4), settings)
        while (rate := run.next_rate()) is not None:
            run.record(simulated_probe(rate, lambda n: service[n - 1], settings, target_ms, seed))
        found.append(run.search.passed / truth)
    assert np.mean(found) == pytest.approx(1.0, abs=0.06)
    assert np.std(found) < 0.08


def test_at_a_low_rate_a_server_is_a_single_stream():
    """Nobody waits: every percentile is that of a call alone."""
    settings = server(max_batch=8, confidence=0.99, max_seconds=1e6)
    probe = simulated_probe(0.1, 0.010, settings, target_ms=15.0)
    row = scenario_rows.server_rows(
        contender("fp32"), "query", ServerRun(15.0, RateSearch(0.1, 0.1, 1), settings, [probe])
    )[-1]
    assert [row[f"p{p}_ms"] for p in (50, 90, 99)] == pytest.approx([10.0] * 3, rel=0.01)
    assert row["mean_batch"] == pytest.approx(1.0, abs=0.02)


def test_a_target_below_a_single_call_is_said_without_a_probe():
    run = ServerRun(5.0, RateSearch(NEVER, 0.5, 4), server(max_probes=4, max_seconds=10.0))
    assert run.next_rate() is None
    assert run.remark() == "no rate meets the target: its calls alone take longer"


def test_a_rate_that_is_not_resolved_is_said():
    run = ServerRun(5.0, RateSearch(100.0, 0.01, 2), server(max_probes=2))
    run.search.record(100.0, True)
    assert (
        run.remark() == "the highest rate may be higher: no rate that was tried missed the target"
    )
    run.search.record(110.0, False)
    assert run.remark() == "the highest rate is not resolved: max_probes is used up"


@pytest.mark.parametrize(
    ("slow", "planned", "met"), [(1, 5, True), (2, 5, False), (0, 6, False), (1, 6, False)]
)
def test_a_probe_meets_a_target_that_enough_of_its_requests_met(slow, planned, met):
    latencies = [5_000_000] * (5 - slow) + [5_000_001] * slow
    probe = Probe(3.0, planned, 1, latencies, [2, 3], 2.0)
    assert probe.meets(5.0) is met
    row = scenario_rows._served(probe, ServerRun(5.0, RateSearch(1.0, 0.1, 1), server()))
    assert (row["slow"], row["meets_target"], row["stopped"]) == (slow, met, planned == 6)
    assert (row["rate"], row["per_second"], row["mean_batch"]) == (3.0, 2.5, 2.5)


def test_a_target_is_a_multiple_of_pytorch_s_median_call():
    def lane(variant, *seconds):
        contender = SimpleNamespace(variant=variant)
        return SimpleNamespace(contender=contender, single_seconds=lambda kind: list(seconds))

    settings = ScenarioSettings(server=server(p99_multiple=5, p99_ms={"document": 7.0}))
    lanes = [lane("fp32", 0.001), lane("pytorch", 0.01, 0.09, 0.02)]
    assert scenarios._target(lanes, "query", settings) == pytest.approx(100.0)
    assert scenarios._target(lanes[:1], "query", settings) == pytest.approx(5.0)
    assert scenarios._target([lane("pytorch")], "query", settings) is None
    assert scenarios._target(lanes, "document", settings) == 7.0


def test_seconds_of_a_call_are_medians_by_batch_size():
    def timed(case, sizes):
        return [number * sizes[0] * 10**9 for number in (9, 1, 2)[: len(sizes)]]

    lane = SimpleNamespace(single_seconds=lambda kind: [3.0, 1.0, 9.0, 2.0, 8.0], _timed=timed)
    found = ScenarioLane._service_seconds(lane, ScenarioCase("query", 5, "server"))
    assert found == {1: 3.0, 2: 4.0, 4: 8.0, 5: 10.0}


def test_pages_of_like_size_are_in_one_offline_batch(tmp_path):
    files = []
    for name, side in (("a", 4), ("b" * 9, 5), ("c", 40), ("d" * 9, 41)):
        PIL.Image.new("L", (side, side)).save(tmp_path / f"{name}.png")
        files.append(str(tmp_path / f"{name}.png"))
    lane = SimpleNamespace(
        inputs=Inputs(("long query", "q"), tuple(files), pages=True), scenarios=ScenarioSettings()
    )
    found = ScenarioLane.batches(lane, ScenarioCase("document", 2, "offline"))
    assert sorted(found) == [[0, 1], [2, 3]]
    assert sorted(ScenarioLane.batches(lane, ScenarioCase("query", 2, "offline"))) == [[1, 0]]


def test_a_target_that_nothing_meets_is_said():
    settings = server(max_probes=4, max_seconds=100.0)
    run = ServerRun(5.0, RateSearch(10.0, 0.5, 4), settings)
    while (rate := run.next_rate()) is not None:
        run.record(simulated_probe(rate, 0.010, settings, 5.0))
    (best,) = (r for r in scenario_rows.server_rows(contender("fp32"), "query", run) if r["best"])
    assert best["highest_rate"] is None
    assert best["meets_target"] is False
    assert best["stopped"]
    assert best["reason"].startswith("no rate is known to meet the target")
    assert best["rate"] == min(probe.rate for probe in run.probes)


def test_a_probe_that_would_last_too_long_is_not_made():
    settings = server(confidence=0.99)
    assert plan_probe(459 / 5.0, 5.0, settings) == (459, 0)
    assert plan_probe(459 / 5.1, 5.0, settings) is None
    assert plan_given(10.0, 5.0, settings) == (50, -1)
    # Long enough for an overload by the resolution to fall behind by twice the target.
    assert plan_probe(1000.0, 1000.0, settings)[0] == 4000
    assert plan_probe(1000.0, 1300.0, settings) is None
    run = ServerRun(5.0, RateSearch(10.0, 0.5, 4), settings)
    assert run.next_rate() is None
    (row,) = scenario_rows.server_rows(contender("fp32"), "query", run)
    assert row["status"] == "unsupported"
    assert "longer than max_seconds" in row["reason"]


def test_speedups_compare_each_scenario_s_own_figure():
    def made(variant, scenario, batch_size=1, **figures):
        case = ScenarioCase("query", batch_size, scenario)
        return scenario_rows.make_row("m", variant, "cpu", case, **figures)

    rows = [
        made("pytorch", "single_stream", p90_ms=8.0, best=True),
        made("fp32", "single_stream", p90_ms=2.0, best=True),
        made("pytorch", "offline", per_second=10.0),
        made("fp32", "offline", per_second=30.0),
        made("fp32", "offline", 8, per_second=20.0),
        made("pytorch", "server", highest_rate=5.0, best=True),
        made("fp32", "server", highest_rate=15.0, best=True),
        made("int8", "server", highest_rate=None, best=True),
        made("fp32", "server", best=False),
    ]
    # The machine is half as fast in the second round, and for the reference alone in the third.
    costs = {
        ("pytorch", "cpu", "single_stream", "query", 1): [8.0, 16.0, 16.0],
        ("fp32", "cpu", "single_stream", "query", 1): [2.0, 4.0, 2.0],
        ("pytorch", "cpu", "offline", "query", 1): [9.0, 18.0, None],
        ("fp32", "cpu", "offline", "query", 1): [3.0, 6.0, 1.0],
        ("fp32", "cpu", "offline", "query", 8): [4.0, 4.0, 4.0],
    }
    scenario_rows.mark_best(rows, costs)
    found = [row["speedup_vs_pytorch"] for row in rows]
    assert found == [1, 4, 1, 3, None, 1, 3, None, None]
    assert [row["best"] for row in rows] == [*[True] * 4, False, *[True] * 3, False]


def test_a_round_s_cost_is_its_own_figure():
    rounds = [[10, 20, 30, 40], [], [6, 6]]
    assert scenario_rows.round_costs("single_stream", rounds, [1]) == [37.0, None, 6.0]
    # Passes of a batch of three inputs and one of two: 3 + 2 + 3 + 2, and 3 + 2.
    assert scenario_rows.round_costs("offline", rounds, [3, 2]) == [10.0, None, 2.4]


def test_a_figure_without_a_column_is_refused():
    with pytest.raises(KeyError):
        scenario_rows.make_row(
            "m", "fp32", "cpu", ScenarioCase("query", 1, "offline"), colour="red"
        )


def test_scenarios_are_timed_by_their_own_settings():
    chosen = ScenarioSettings(
        **{"rounds": 7, "min_seconds": 2.0, "max_seconds": 9.0, "warmup_calls": 11, "threads": 3},
        **{"affinity": (1,), "seed": 5, "quiet_wait_s": 0.5, "timeout_s": 44.0},
        offline=OfflineSettings(min_seconds=20.0),
    )
    alike = {name: getattr(chosen, name) for name in ("rounds", "max_seconds", "threads", "seed")}
    alike |= {"affinity": (1,), "quiet_wait_s": 0.5, "timeout_s": 44.0, "warmup_max_seconds": 9.0}
    alike |= {"min_samples": 1, "precision": 0}
    single = LatencySettings(**alike, min_seconds=2.0, warmup_max_calls=11)
    assert chosen.timing("single_stream") == single
    offline = LatencySettings(**alike, min_seconds=9.0, warmup_max_calls=1)
    assert chosen.timing("offline") == offline


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"offline": OfflineSettings(min_seconds=-1.0)}, "scenarios.offline.min_seconds"),
        ({"rounds": 0}, "scenarios.rounds"),
        ({"server": ServerSettings(max_batch=0)}, "scenarios.server.max_batch"),
    ],
)
def test_settings_of_code_are_checked_as_those_of_a_config(wrong, place):
    with pytest.raises(ConfigError, match=re.escape(place)):
        ScenarioSettings(**wrong)


@pytest.mark.parametrize(
    ("rounds", "stopped"),
    [([[1, 2], [3, 4, 5, 6]], False), ([[1, 2], [3]], True), ([[1, 2], []], True)],
)
def test_a_round_that_ends_early_is_said(rounds, stopped):
    row = {"status": "ok", "samples": 3}
    for scenario in ("single_stream", "offline"):
        assert scenario_rows.timed_row(row, scenario, rounds, [4, 1])["stopped"] is stopped


def test_threads_are_those_that_the_job_has():
    chosen = ScenarioSettings(run=["server"], seed=4, threads=3)
    assert (chosen.threads, chosen.run, chosen.seed) == (3, ("server",), 4)
    for scenario in ("single_stream", "offline", "server"):
        assert chosen.timing(scenario).threads == 3


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match=r"scenarios\.run: found \('multi_stream',\)"):
        ScenarioSettings(run=("multi_stream",))
    with pytest.raises(ConfigError, match=r"scenarios\.max_seconds: found 0.5"):
        ScenarioSettings(max_seconds=0.5)
    with pytest.raises(ConfigError, match=r"scenarios\.server\.max_seconds: found 0.5"):
        ScenarioSettings(server={"max_seconds": 0.5}, threads=1)
    assert math.isinf(server(max_seconds=math.inf).max_seconds)
