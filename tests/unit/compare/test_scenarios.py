"""Single stream, offline and server: changed costs and rates, and what is not compared."""

import pytest

from colport.compare import compare

from .runs import INT8, Run

INT8_LANE = 2


def slow_down(run, scenario, factor):
    for call in run.scenarios["samples"][INT8_LANE]["calls"]:
        if call["scenario"] == scenario:
            call["round_costs_ns"] = [factor * cost for cost in call["round_costs_ns"]]


def rows_of(run, scenario, variant=INT8):
    return [
        row
        for row in run.scenarios["rows"]
        if (row["variant"], row["scenario"]) == (variant, scenario)
    ]


def serve(run, factor, variant=INT8):
    for row in rows_of(run, "server", variant):
        row["highest_rate"] *= factor
        row["failed_rate"] *= factor


def test_a_slower_stream_and_a_lower_throughput_are_worse(found):
    def change(run):
        slow_down(run, "single_stream", 1.5)
        slow_down(run, "offline", 2.0)

    places, findings = found(change)
    assert places == [
        ("scenarios", "worse", "model int8 cpu query offline"),
        ("scenarios", "worse", "model int8 cpu query single stream"),
    ]
    assert findings[0].text.startswith("speed-up 2 [1.9")
    assert findings[0].new == findings[0].old / 2
    assert found(lambda run: slow_down(run, "offline", 0.5))[0] == [
        ("scenarios", "better", "model int8 cpu query offline")
    ]


def test_another_highest_rate_is_told_and_decides_nothing(found):
    """A rate that failed may have met a slow moment: it is no proof of a loss."""
    for factor in (0.5, 0.8, 2.0):
        ((group, verdict, place),), (finding,) = found(lambda run, f=factor: serve(run, f))
        assert (group, verdict, place) == ("scenarios", "undecided", "model cpu")
        assert "1 moved by more than 5%" in finding.text
        assert "model int8 cpu query server speed-up 2 [1.67, 2.4]" in finding.text


def test_a_slower_machine_is_no_regression_of_a_server(found):
    def change(run):
        for variant in ("pytorch", "fp32", INT8):
            serve(run, 0.3, variant)

    assert found(change)[0] == []


def test_a_highest_rate_that_was_not_found_is_not_compared(found):
    def change(run):
        rows_of(run, "server")[0]["failed_rate"] = None

    places, findings = found(change)
    assert places == [("scenarios", "not compared", "model int8 cpu query server")]
    assert findings[0].text == "highest rate is not known on both sides"


@pytest.mark.parametrize("scenario", ["offline", "single_stream", "server"])
def test_a_scenario_that_fails_now_is_worse_and_no_more(scenario, found):
    def change(run):
        slow_down(run, scenario, 3.0)
        fault = {"status": "failed", "reason": "it broke", "best": False, "highest_rate": None}
        rows_of(run, scenario)[0].update(fault)

    places, findings = found(change)
    assert places == [("scenarios", "worse", f"model int8 cpu query {scenario.replace('_', ' ')}")]
    assert findings[0].text == "ok -> failed (it broke)"


def test_a_batch_size_that_fails_beside_a_better_one_is_no_loss(found):
    def change(run):
        (best,) = rows_of(run, "offline")
        failed = {"batch_size": 8, "status": "unsupported", "reason": "memory", "best": False}
        run.scenarios["rows"].append({**best, **failed})

    assert found(change)[0] == []


def test_few_rounds_of_scenarios_are_not_compared(found):
    def change(run):
        for call in run.scenarios["samples"][INT8_LANE]["calls"]:
            call["round_costs_ns"][2:] = [None] * 3

    places, findings = found(change)
    assert {verdict for _, verdict, _ in places} == {"not compared"}
    assert len(places) == 2
    assert findings[0].text == "2 rounds; an interval needs 5"


def test_scenarios_of_other_settings_or_another_pytorch_are_not_compared(found):
    def other_settings(run):
        run.scenarios["settings"]["inputs"] = 32
        serve(run, 0.1)

    places, findings = found(other_settings)
    assert places == [("scenarios", "not compared", "model cpu")]
    assert findings[0].text == "other settings: inputs"

    def other_pytorch(run):
        run.scenarios["environment"]["packages"]["torch"] = "2.14.0"
        serve(run, 0.1)

    places, findings = found(other_pytorch)
    assert places == [("scenarios", "not compared", "model cpu")]
    assert "torch 2.13.0 -> 2.14.0" in findings[0].text


def test_scenarios_that_only_one_run_has(old, tmp_path):
    new = Run().write(tmp_path / "new")
    (new / "scenarios/model/cpu.json").unlink()
    (finding,) = compare(old, new)
    assert (finding.verdict, finding.place) == ("not compared", "model cpu")
    assert compare(new, old) == []
