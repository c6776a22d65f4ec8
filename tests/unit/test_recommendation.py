"""The rule: one variant a need, near ties decided by quality."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colport.recommendation import BEST, FASTEST, NEEDS, SMALLEST, recommend

REFERENCE = 0.8


def row(variant: str, ms: float, mb: float, delta: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        **{"variant": variant, "provider": "cpu", "document_p50_ms": ms, "size_mb": mb},
        **{"ndcg_at_5": REFERENCE + delta, "ndcg_at_5_delta": delta, "p_value": 0.5},
        **{"document_speedup": 100 / ms, "parity_passed": True, "verdict": ""},
        **{"recommended": False},
        **more,
    }


def chosen(*rows: dict[str, Any]) -> dict[str, str]:
    """Need to variant."""
    recommend(rows)
    return {need: item["variant"] for item in rows for need in item["best_for"].split(", ") if need}


def test_each_need_has_its_own_variant():
    rows = [row("fp32", 60, 90), row("int8", 20, 25, -0.009), row("int4", 50, 15, -0.005)]
    assert chosen(*rows) == {FASTEST: "int8", SMALLEST: "int4", BEST: "fp32"}
    assert [item["recommended"] for item in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("ms", "low", "expected"),
    [
        (20.6, math.nan, "calibrated"),  # 3% slower: as fast, and better
        (21.0, math.nan, "calibrated"),  # 5%
        (21.1, math.nan, "int8"),
        (23.0, 4.2, "calibrated"),  # 100 / 23 = 4.35: the fastest one had that in some round
        (23.0, 4.4, "int8"),
        (24.1, 1.0, "int8"),  # a noisy run's wide range is no tie beyond 20%
    ],
)
def test_a_near_tie_in_speed_goes_to_the_better_one(ms: float, low: float, expected: str):
    rows = [
        row("int8", 20, 24, -0.014, document_speedup_low=low),
        row("calibrated", ms, 26, 0.001),
    ]
    assert chosen(*rows)[FASTEST] == expected
    if expected == "calibrated":
        assert "about as fast as calibrated on cpu" in rows[0]["verdict"]
        assert "1.4 points of NDCG@5 worse" in rows[0]["verdict"]


def test_a_near_tie_of_equal_quality_goes_to_the_fastest():
    assert chosen(row("a", 20, 30, -0.001), row("b", 20.5, 10, 0.0))[FASTEST] == "a"
    assert chosen(row("a", 20, 30), row("b", 20, 10))[FASTEST] == "b"


def test_a_gain_within_noise_is_none():
    rows = [row("slow", 60, 90, 0.004, p_value=0.3), row("fast", 20, 95, 0.0)]
    assert chosen(*rows)[BEST] == "fast"
    rows = [row("slow", 60, 90, 0.004, p_value=0.01), row("fast", 20, 95, 0.0)]
    assert chosen(*rows)[BEST] == "slow"


def test_the_smallest_keeps_99_percent():
    kept = [row("int8", 20, 25, -0.0079), row("int4", 30, 15, -0.0081)]
    assert chosen(*kept)[SMALLEST] == "int8"
    assert SMALLEST not in chosen(row("int8", 20, 25, -0.009))


def test_what_does_not_qualify_is_chosen_for_nothing():
    rows = [
        row("a", 20, 25, parity_passed=False),
        row("b", 20, 25, delta=math.nan, p_value=math.nan),
        row("c", math.nan, 25),
        row("d", 20, 25, verdict="unsupported: no reason"),
        row("pytorch", 100, math.nan),
    ]
    assert chosen(*rows) == {}
    assert all(item["verdict"] for item in rows)


figures = st.one_of(st.floats(0.1, 1e3), st.just(math.nan))


@given(
    st.lists(
        st.tuples(figures, figures, st.floats(-0.1, 0.1), st.floats(0, 1), st.booleans()),
        max_size=8,
    )
)
def test_any_rows_have_at_most_one_choice_a_need(drawn):
    rows = [
        row(f"v{number}", ms, mb, delta, p_value=p, parity_passed=passed)
        for number, (ms, mb, delta, p, passed) in enumerate(drawn)
    ]
    names = chosen(*rows)
    assert set(names) <= set(NEEDS)
    assert (FASTEST in names) == (BEST in names) == any(item["recommended"] for item in rows)
    assert sum(item["recommended"] for item in rows) <= 1
    for item in rows:
        assert item["verdict"]
        if item["best_for"]:
            assert item["parity_passed"]
