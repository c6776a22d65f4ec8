"""Rows that come and go, parity, size, time and memory."""

import copy

from colport.compare import compare

from .runs import FP32, INT8, MODEL, Run, rounds, row

PEER = "peer-optimum"


def test_the_same_run_has_no_findings(found):
    assert found(lambda run: None)[0] == []


def test_rounding_and_growth_below_the_thresholds_are_noise(found):
    def change(run):
        run.export[FP32]["rows"][0] |= {"folder_bytes": 80_700_000, "seconds": 23.9}
        run.parity[FP32]["rows"][0]["min_cosine"] = 0.999998
        run.parity[INT8]["rows"][0]["min_cosine"] = 0.979
        run.slow_down(2, 1.04)

    assert found(change)[0] == []


def test_parity_that_fails_and_cosines_that_fall_are_worse(found):
    def change(run):
        run.parity[INT8]["rows"][0] |= {"passed": False, "min_cosine": 0.85}

    places, findings = found(change)
    assert places == [("parity", "worse", "model int8 cpu query")] * 2
    assert [item.figure for item in findings] == ["passed", "min_cosine"]


def test_parity_of_other_inputs_is_not_compared(found):
    def change(run):
        run.parity[INT8]["rows"][0] |= {"inputs": 10, "min_cosine": 0.5}

    assert found(change)[0] == [("parity", "not compared", "model int8 cpu query")]


def test_size_time_and_memory(found):
    def change(run):
        run.export[FP32]["rows"][0] |= {"folder_bytes": 82_000_000, "seconds": 30.0}
        run.export[INT8]["rows"][0]["peak_rss_mb"] = 1500.0
        run.latency["rows"][1]["peak_rss_mb"] = 700.0

    assert found(change)[0] == [
        ("latency", "worse", "model fp32 cpu"),
        ("size", "worse", "model fp32"),
        ("export", "worse", "model fp32 text"),
        ("export", "worse", "model int8 text"),
    ]


def test_rows_that_vanish_fail_or_appear(found):
    def change(run):
        run.parity[INT8]["rows"].pop()
        run.parity[FP32]["rows"][0] |= {"status": "failed", "reason": "it broke"}
        extra = copy.deepcopy(run.parity[FP32]["rows"][1])
        run.parity[FP32]["rows"].append({**extra, "provider": "cuda"})

    places, findings = found(change)
    assert places == [
        ("rows", "worse", "model fp32 cpu query"),
        ("rows", "worse", "model int8 cpu"),
        ("rows", "new", "model fp32 cuda"),
    ]
    assert [item.text for item in findings] == [
        "parity ok -> failed (it broke)",
        "vanished: 1 parity row",
        "new: 1 parity row",
    ]


def with_a_peer(milliseconds: float) -> Run:
    run = Run()
    for exported in list(run.export[INT8]["rows"]):
        run.export[INT8]["rows"].append({**exported, "variant": PEER})
    for record in (run.latency, run.scenarios):
        for part in ("rows", "samples"):
            ours = [item for item in record[part] if item["variant"] == INT8]
            record[part] += copy.deepcopy([{**item, "variant": PEER} for item in ours])
    run.latency["samples"][-1]["rounds_ns"] = rounds(milliseconds, 7)
    for call in run.scenarios["samples"][-1]["calls"]:
        call["round_costs_ns"] = [milliseconds * 1e6] * 5
    return run


def test_peers_may_come_and_go_and_change(tmp_path):
    old, new = with_a_peer(20).write(tmp_path / "old"), with_a_peer(60).write(tmp_path / "new")
    assert compare(old, Run().write(tmp_path / "none")) == []
    assert compare(old, new) == []


def test_a_row_without_figures_may_vanish(old, tmp_path):
    run = Run()
    run.parity[FP32]["rows"].append(
        row("parity", model=MODEL, variant=FP32, provider="cuda", status="unsupported")
    )
    assert compare(run.write(tmp_path / "with"), old) == []
