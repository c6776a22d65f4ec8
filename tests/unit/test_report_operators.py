"""The bars of operators: their lengths, colours and table."""

import re

import pandas as pd
import pytest

from colport import tables
from colport.latency.profile import COLUMNS
from colport.report import render
from colport.report.operators import LARGEST, MAX_BARS, operator_charts, read_operators


def rows(variant, operators, graph_ms, kind="document", model="<model>", share_of_peak=0.5):
    total = sum(operators.values())
    return [
        {
            **{"model": model, "variant": variant, "provider": "cpu", "kind": kind},
            **{"operator": name, "nodes": 3, "ms": ms, "share": ms / total},
            **{"graph_ms": graph_ms, "gflop": 1.0, "matmul_share": share_of_peak},
            **{"status": "ok", "reason": ""},
        }
        for name, ms in operators.items()
    ]


SKIPPED = {"model": "<model>", "variant": "fp32", "provider": "cuda", "kind": "", "operator": ""}
MANY = {f"Op{number}": 10.0 - number for number in range(9)}


def table(*parts):
    listed = [row for part in parts for row in part]
    limit = {**dict.fromkeys(COLUMNS), **SKIPPED, "status": "unsupported", "reason": "cpu only"}
    return pd.DataFrame([*listed, limit], columns=COLUMNS)


def test_a_bar_is_as_long_as_its_call_and_the_slowest_comes_first():
    found = table(
        rows("int8", {"MatMul": 1.0, "Add": 1.0}, 5.0), rows("fp32", {"MatMul": 8.0}, 20.0)
    )
    (chart,) = operator_charts(found)
    assert [bar.label for bar in chart.bars] == ["fp32", "int8"]
    lengths = [sum(part.width for part in bar.segments) for bar in chart.bars]
    assert lengths[0] == pytest.approx(4 * lengths[1])
    for bar in chart.bars:
        assert bar.segments[0].x == chart.left
        assert bar.segments[-1].x + bar.segments[-1].width == pytest.approx(bar.end)
        assert bar.end < chart.width
    # Profiled milliseconds are scaled to the call without the profiler.
    assert chart.bars[1].segments[0].detail == "MatMul: 2.50 ms, 50%"
    assert chart.bars[1].figures == "5.00 ms, 50% of matmul"


def test_only_the_largest_operators_have_a_colour_of_their_own():
    (chart,) = operator_charts(table(rows("fp32", MANY, 54.0)))
    assert [name for name, _ in chart.legend] == [*list(MANY)[:LARGEST], "other"]
    assert [colour for _, colour in chart.legend] == ["c1", "c2", "c3", "c4", "c5", "c6", "c0"]
    (bar,) = chart.bars
    assert len(bar.segments) == LARGEST + 1
    assert bar.segments[-1].detail == "other: 9.00 ms, 17%"


def test_the_longest_kind_and_the_slowest_variants_are_drawn():
    parts = [rows(f"v{number}", {"MatMul": 1.0}, 1.0 + number) for number in range(MAX_BARS + 3)]
    (chart,) = operator_charts(table(*parts, rows("v0", {"MatMul": 1.0}, 0.5, kind="query")))
    assert "one document" in chart.caption
    assert [bar.label for bar in chart.bars][:2] == ["v10", "v9"]
    assert len(chart.bars) == MAX_BARS


def test_nothing_profiled_draws_nothing():
    assert operator_charts(None) == []
    assert operator_charts(table()) == []


def test_the_page_shows_bars_and_table(tmp_path):
    tables.write_tables({"operators": table(rows("fp32", MANY, 54.0))}, tmp_path)
    found = read_operators(tmp_path / "operators.csv")
    html = render({"operators": found}, {})
    assert "<model>" not in html
    assert html.count('class="chart bars"') == 1
    assert html.count("<title>fp32, ") == LARGEST + 1
    assert 'id="table-operators"' in html
    body = re.search(r'id="table-operators".*?</section>', html, re.DOTALL)[0]
    assert body.count("<tr") == 1 + len(MANY) + 1
    assert "unsupported" in body


def test_a_page_without_profiles_has_neither():
    html = render({}, {})
    assert "Where the time goes" not in html
    assert 'id="table-operators"' not in html
