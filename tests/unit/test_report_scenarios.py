"""Servers under load in the report: lines, target, table."""

import re

import pandas as pd
import pytest

from colport import tables
from colport.latency.scenario_rows import COLUMNS, make_row
from colport.latency.settings import Contender
from colport.report import render
from colport.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from colport.report.scenarios import load_charts, read_scenarios, shown_rows

MARKS = {"pytorch": ("M0 0Z", "c0"), "<fp32>": ("M1 1Z", "c1")}


def row(variant, rate, p99_ms, met, best=False, **changes):
    provider = "torch-cpu" if variant == "pytorch" else "cpu"
    contender = Contender("<model>", variant, provider, "module:name")
    figures = {"rate": rate, "p99_ms": p99_ms, "meets_target": met, "best": best, "mean_batch": 1.5}
    figures |= {"target_ms": 50.0, "highest_rate": rate if best else None, **changes}
    return make_row(contender, "server", "query", 8, **figures)


ROWS = [
    row("pytorch", 20.0, 30.0, True, best=True),
    row("pytorch", 25.0, 70.0, False, stopped=True),
    row("<fp32>", 200.0, 60.0, False, stopped=True),
    row("<fp32>", 100.0, 20.0, True),
    row("<fp32>", 180.0, 45.0, True, best=True, failed_rate=200.0),
    row("<fp32>", None, None, None, target_ms=None, status="unsupported", reason="No GPU."),
]


def table(*rows):
    return pd.DataFrame(rows or ROWS, columns=COLUMNS)


def test_a_line_goes_through_the_rates_in_their_order():
    (chart,) = load_charts(table(), MARKS)["<model>"]
    assert [line.variant for line in chart.lines] == ["pytorch", "<fp32>"]
    marks = chart.lines[1].marks
    assert [mark.met for mark in marks] == [True, True, False]
    assert [mark.x for mark in marks] == sorted(mark.x for mark in marks)
    assert chart.lines[1].path.count("L") == 2
    for mark in [mark for line in chart.lines for mark in line.marks]:
        assert LEFT < mark.x < WIDTH - RIGHT
        assert TOP < mark.y < HEIGHT - BOTTOM
        # Smaller is lower in the picture: what met the target lies below its line.
        assert (mark.y > chart.target_y) == mark.met
    assert "180 requests a second; p99 45.0 ms; mean batch 1.50; target met" in marks[1].detail
    assert chart.summary.endswith("<fp32> 180, pytorch 20.0.")
    assert len(chart.x_ticks) >= 2
    assert len(chart.y_ticks) >= 2


def test_each_target_has_a_chart_of_its_own():
    other = {**ROWS[1], "kind": "document", "target_ms": 90.0}
    charts = load_charts(table(*ROWS, other), MARKS)["<model>"]
    assert [chart.caption for chart in charts] == [
        "Query requests, target p99 of 50.0 ms",
        "Document requests, target p99 of 90.0 ms",
    ]
    assert charts[1].summary.endswith("none.")


def test_a_single_point_on_its_target_is_drawn():
    (chart,) = load_charts(table(row("pytorch", 20.0, 50.0, True)), MARKS)["<model>"]
    assert chart.lines[0].marks[0].y == pytest.approx(chart.target_y)


def summary():
    rows = [{"model": "<model>", "variant": name, "provider": "cpu"} for name in MARKS]
    return pd.DataFrame(rows)


def test_the_page_shows_lines_and_what_stands_for_each_scenario(tmp_path):
    tables.write_tables({"scenarios": table()}, tmp_path)
    found = read_scenarios(tmp_path / "scenarios.csv")
    assert len(shown_rows(found)) == 3
    html = render({"scenarios": found, "summary": summary()}, {})
    assert "<model>" not in html
    assert "<fp32>" not in html
    assert html.count('class="chart load"') == 1
    assert html.count('class="line ') == 2
    body = re.search(r'id="table-scenarios".*?</section>', html, re.DOTALL)[0]
    assert body.count("<tr") == 1 + 3
    problems = html[html.index('id="problems"') :]
    assert "No GPU." in problems


def test_a_page_without_scenarios_has_neither():
    html = render({}, {})
    assert "Servers under load" not in html
    assert 'id="table-scenarios"' not in html
