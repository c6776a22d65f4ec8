"""Speed-ups and milliseconds: what is worse, what is noise, what cannot be compared."""

import random

import pytest

from colport.compare import compare
from colport.compare.intervals import COVERAGE, median_interval

from .runs import Run


def test_a_slower_variant_is_worse_and_the_worst_comes_first(found):
    def change(run):
        run.slow_down(1, 1.2)
        run.slow_down(2, 2.0)

    places, findings = found(change)
    assert places == [
        ("latency", "worse", "model int8 cpu query x1"),
        ("latency", "worse", "model fp32 cpu query x1"),
    ]
    assert findings[0].old == pytest.approx(2.0, rel=0.02)
    assert findings[0].new == pytest.approx(1.0, rel=0.02)
    assert ", 20 -> 40" in findings[0].text
    assert found(change, threshold=0.5)[0] == places[:1]


def test_a_faster_variant_is_better(found):
    assert found(lambda run: run.slow_down(1, 0.5))[0] == [
        ("latency", "better", "model fp32 cpu query x1")
    ]


def test_a_slower_machine_is_no_regression(found):
    def change(run):
        for index in range(3):
            run.slow_down(index, 3.0)
        run.latency["environment"]["cpu"] = "another"

    assert found(change)[0] == []


def test_a_wide_spread_hides_a_small_change(found):
    def change(run):
        sample = run.latency["samples"][1]
        for one, factor in zip(sample["rounds_ns"], (0.9, 1.0, 1.1, 1.2, 1.5), strict=True):
            one[:] = [int(ns * factor) for ns in one]

    places, findings = found(change)
    assert places == [("latency", "undecided", "model cpu")]
    assert "1 moved by more than 5%" in findings[0].text
    assert "model fp32 cpu query x1 speed-up 2 " in findings[0].text


def test_another_baseline_falls_back_to_milliseconds_on_the_same_machine(found):
    def change(run):
        run.latency["environment"]["packages"]["torch"] = "2.14.0"
        run.slow_down(0, 0.5)
        run.slow_down(2, 1.5)

    places, findings = found(change)
    assert places == [
        ("latency", "worse", "model int8 cpu query x1"),
        ("latency", "not compared", "model cpu"),
        ("latency", "better", "model pytorch torch-cpu query x1"),
    ]
    assert "torch 2.13.0 -> 2.14.0" in findings[1].text
    assert findings[0].text.endswith(" ms")


def test_another_baseline_on_another_machine_is_not_compared(found):
    def change(run):
        run.latency["environment"]["packages"]["torch"] = "2.14.0"
        run.latency["environment"]["cpu"] = "another"
        run.slow_down(2, 5.0)

    assert found(change)[0] == [("latency", "not compared", "model cpu")]


@pytest.mark.parametrize(
    ("instructions", "places"),
    [
        (["AVX2"], [("latency", "not compared", "model cpu")]),
        (["AVX2", "AVX-512", "AVX-512 VNNI"], [("latency", "worse", "model int8 cpu query x1")]),
        (None, [("latency", "worse", "model int8 cpu query x1")]),  # a run that does not tell it
    ],
)
def test_speed_ups_of_another_class_of_processor_are_not_compared(instructions, places, tmp_path):
    old, new = Run(), Run()
    old.latency["environment"]["instructions"] = ["AVX2", "AVX-512", "AVX-512 VNNI"]
    if instructions:
        new.latency["environment"]["instructions"] = instructions
    new.slow_down(2, 5.0)
    findings = compare(old.write(tmp_path / "old"), new.write(tmp_path / "new"))
    assert [(item.group, item.verdict, item.place) for item in findings] == places
    if instructions == ["AVX2"]:
        assert findings[0].text == (
            "speed-ups: another PyTorch baseline (processor with AVX-512 VNNI -> AVX2); "
            "milliseconds neither: other machine"
        )


def test_other_threads_are_not_compared(found):
    def change(run):
        run.latency["settings"] = {"threads": 4}
        run.slow_down(2, 5.0)

    assert found(change)[0] == [("latency", "not compared", "model cpu")]


def test_few_rounds_are_not_compared(found):
    def change(run):
        run.slow_down(1, 5.0)
        run.latency["samples"][1]["rounds_ns"][2:] = [[], [], []]

    places, findings = found(change)
    assert places == [("latency", "not compared", "model fp32 cpu query x1")]
    assert "2 rounds" in findings[0].text


def test_noise_is_said_beside_a_change(found):
    def change(run):
        run.latency["noise"]["noisy"] = True
        run.slow_down(1, 2.0)

    assert found(change)[1][0].text.endswith("noisy machine in the new run")


def test_interval_coverage_by_simulation():
    generator = random.Random(0)
    inside = 0
    for _ in range(2000):
        interval = median_interval([generator.expovariate(1.0) for _ in range(7)])
        inside += interval.low <= 0.6931 <= interval.high
    assert inside / 2000 > COVERAGE - 0.02
