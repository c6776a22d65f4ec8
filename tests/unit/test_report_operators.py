"""The bars of operators: their lengths, colours and table."""

import re

import pandas as pd
import pytest

from colport import tables
from colport.base.columns import TABLES, row
from colport.report.section import Material
from colport.report.sections.operators import LARGEST, MAX_BARS, section
from tests.unit.test_report import render


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
    listed = [one for part in parts for one in part]
    limit = row("operators", **SKIPPED, status="unsupported", reason="cpu only")
    return pd.DataFrame([*listed, limit], columns=TABLES["operators"].columns)


def drawn(found):
    (chart,) = section(Material({"operators": found}))["groups"][""]
    return chart


def bars(chart):
    """Start and width of every bar, from the drawing."""
    paths = re.findall(
        r'class="bar \w+" d="M([\d.]+) ([\d.]+)h([\d.]+)v[\d.]+H', chart.drawing.markup
    )
    return [(float(y), float(x), float(width)) for x, y, width in paths]


def names(chart):
    return re.findall(r'class="label"[^>]*>([^<]*)<', chart.drawing.markup)


def test_a_bar_is_as_long_as_its_call_and_the_slowest_comes_first():
    chart = drawn(
        table(rows("int8", {"MatMul": 1.0, "Add": 1.0}, 5.0), rows("fp32", {"MatMul": 8.0}, 20.0))
    )
    assert names(chart) == ["fp32", "int8"]
    (whole,), parts = [bars(chart)[:1], bars(chart)[1:]]
    assert len(parts) == 2
    assert whole[2] == pytest.approx(4 * sum(width for _, _, width in parts), rel=0.01)
    assert parts[1][1] == pytest.approx(parts[0][1] + parts[0][2], abs=0.2)
    # Profiled milliseconds are scaled to the call without the profiler.
    assert chart.points[1][1].startswith("int8 cpu document; Operator MatMul; Time, ms 2.50;")
    assert "5.00 ms, 50% of matmul" in chart.drawing.markup


def test_only_the_largest_operators_have_a_colour_of_their_own():
    chart = drawn(table(rows("fp32", MANY, 54.0)))
    assert list(chart.legend) == [*list(MANY)[:LARGEST], "other"]
    assert list(chart.legend.values()) == [*(f"c{n}" for n in range(1, 7)), "c0"]
    assert len(bars(chart)) == LARGEST + 1
    other = dict(zip(chart.table.names, chart.table.raw[-1], strict=True))
    assert (other["operator"], other["ms"]) == ("other", "9")


def test_the_longest_kind_and_the_slowest_variants_are_drawn():
    parts = [rows(f"v{number}", {"MatMul": 1.0}, 1.0 + number) for number in range(MAX_BARS + 3)]
    chart = drawn(table(*parts, rows("v0", {"MatMul": 1.0}, 0.5, kind="query")))
    assert "one document" in chart.caption
    assert names(chart)[:2] == ["v10", "v9"]
    assert len(names(chart)) == MAX_BARS


def test_nothing_profiled_draws_nothing():
    assert section(Material({})) is None
    assert section(Material({"operators": table()})) is None


def test_the_page_shows_bars_and_table(tmp_path):
    tables.write_tables({"operators": table(rows("fp32", MANY, 54.0))}, tmp_path)
    found = tables.read_table(tmp_path / "operators.csv")
    html = render({"operators": found}, {})
    assert "<model>" not in html
    assert html.count('<figure class="chart"') == 1
    assert html.count("Operator Op") == LARGEST
    assert 'id="table-operators"' in html
    body = re.search(r'id="table-operators".*?</section>', html, re.DOTALL)[0]
    assert body.count("<tr") == 1 + len(MANY) + 1
    assert "unsupported" in body


def test_all_models_but_the_first_are_folded():
    parts = [rows("fp32", MANY, 54.0, model=f"m{number}") for number in range(3)]
    html = render({"operators": pd.DataFrame([row for part in parts for row in part])}, {})
    first, folded = html.split('<details class="fold">')
    assert first.count('<figure class="chart"') == 1
    assert "<summary>2 more models</summary>" in folded
    assert folded.count('<figure class="chart"') == 2


def test_a_page_without_profiles_has_neither():
    html = render({}, {})
    assert "Where the time goes" not in html
    assert 'id="table-operators"' not in html
