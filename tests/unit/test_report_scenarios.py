"""Servers under load in the report: lines, target, table."""

import re

import pandas as pd
import pytest

from colport import tables
from colport.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP
from colport.report.charts.marks import Mark
from colport.report.sections.scenarios import load_charts, shown_rows
from colport.timing.server.rows import COLUMNS, make_row
from colport.timing.server.settings import ScenarioCase
from tests.unit.test_report import render

MARKS = {"pytorch": Mark("M0 0Z", "c0"), "<fp32>": Mark("M0 0Z", "c1")}


def row(variant, rate, p99_ms, met, best=False, **changes):
    provider = "torch-cpu" if variant == "pytorch" else "cpu"
    case = ScenarioCase("query", 8, "server")
    figures = {"rate": rate, "p99_ms": p99_ms, "meets_target": met, "best": best, "mean_batch": 1.5}
    figures |= {"target_ms": 50.0, "highest_rate": rate if best else None, **changes}
    return make_row("<model>", variant, provider, case, **figures)


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


def places(chart):
    """Where each point is, and what it says."""
    found = [(*re.findall(r'c[xy]="([\d.]+)"', shape), words) for shape, words in chart.points]
    return [(float(x), float(y), words) for x, y, words in found]


def target_y(chart):
    return float(re.search(r'class="reference" d="M[\d.]+ ([\d.]+)L', chart.drawing.markup)[1])


def test_a_line_goes_through_the_rates_in_their_order():
    (chart,) = load_charts(table(), MARKS)["<model>"]
    assert [words.split()[0] for _, _, words in places(chart)] == ["pytorch"] * 2 + ["<fp32>"] * 3
    across = [x for x, _, _ in places(chart)[2:]]
    assert across == sorted(across)
    paths = re.findall(r'class="line \w+" d="([^"]*)"', chart.drawing.markup)
    assert [path.count("L") for path in paths] == [1, 2]
    for x, y, words in places(chart):
        assert LEFT < x < RIGHT
        assert TOP < y < BOTTOM
        # Smaller is lower in the picture: what met the target lies below its line.
        assert (y > target_y(chart)) == ("Meets target yes" in words)
    assert (
        "Offered a second 180; p99, ms 45.0; Mean batch 1.50; Meets target yes"
        in (places(chart)[3][2])
    )
    assert chart.description.endswith("<fp32> 180, pytorch 20.0.")
    assert chart.drawing.markup.count('class="tick"') >= 5


def test_each_target_has_a_chart_of_its_own():
    other = {**ROWS[1], "kind": "document", "target_ms": 90.0}
    charts = load_charts(table(*ROWS, other), MARKS)["<model>"]
    assert [chart.caption for chart in charts] == [
        "Query requests on cpu, target p99 of 50.0 ms",
        "Document requests on torch-cpu, target p99 of 90.0 ms",
    ]
    assert charts[1].description.endswith("none.")


def test_each_run_has_a_chart_of_its_own():
    """PyTorch runs beside the variants on every provider, under the same name."""
    other = [{**found, "provider": "openvino"} for found in ROWS[2:5]]
    charts = load_charts(table(*ROWS, ROWS[0], *other), MARKS)["<model>"]
    assert [len(places(chart)) for chart in charts] == [5, 4]
    assert charts[1].caption == "Query requests on openvino, target p99 of 50.0 ms"


def test_a_single_point_on_its_target_is_drawn():
    (chart,) = load_charts(table(row("pytorch", 20.0, 50.0, True)), MARKS)["<model>"]
    assert places(chart)[0][1] == pytest.approx(target_y(chart), abs=0.1)


def summary():
    rows = [{"model": "<model>", "variant": name, "provider": "cpu"} for name in MARKS]
    return pd.DataFrame(rows)


def test_the_page_shows_lines_and_what_stands_for_each_scenario(tmp_path):
    tables.write_tables({"scenarios": table()}, tmp_path)
    found = tables.read_table(tmp_path / "scenarios.csv")
    assert len(shown_rows(found)) == 3
    html = render({"scenarios": found, "summary": summary()}, {})
    assert "<model>" not in html
    assert "<fp32>" not in html
    assert html.count('<figure class="chart" id="load-') == 1
    assert "Highest rate a second within the target" in html
    assert html.count('class="line c') == 2
    body = re.search(r'id="table-scenarios".*?</section>', html, re.DOTALL)[0]
    assert body.count("<tr") == 1 + 3
    problems = html[html.index('id="problems"') :]
    assert "No GPU." in problems


def test_a_page_without_scenarios_has_neither():
    html = render({}, {})
    assert "Servers under load" not in html
    assert 'id="table-scenarios"' not in html
