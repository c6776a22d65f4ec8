"""Charts: what they draw, the table behind each, and what they leave out."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from colport.report.charts import lanes
from colport.report.charts.chart import Chart
from colport.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP, Drawing, framed
from colport.report.charts.lanes import ACROSS, WIDTH, Axis, Bar, ChartLane, Dot
from colport.report.charts.scales import cost, from_zero, linear, logarithmic
from colport.report.columns import ShownTable
from colport.report.section import Material
from colport.report.sections import losses, run_cost, speed
from tests.unit.test_report import REFERENCE, RUN, joined, make, render, variant

EVIL = '<img src=x onerror="alert(1)">'


def material(**tables):
    return Material({**make(joined(REFERENCE, variant())), **tables})


def charts(section):
    return [chart for group in section["groups"].values() for chart in group]


def test_every_chart_has_its_rows_its_marks_and_its_file():
    html = render(make(joined(REFERENCE, variant(), variant(name="fp32", ms=60.0))), RUN)
    figures = re.findall(r'<figure class="chart".*?</figure>', html, re.DOTALL)
    assert len(figures) == 5  # latency, size, sizes, speed on documents and on queries
    for figure in figures:
        data = json.loads(re.search(r'application/json">(.*?)</script>', figure)[1])
        assert len(data["rows"]) == figure.count('<th scope="row">') > 0
        assert all(len(row) == len(data["columns"]) for row in data["rows"])
        assert figure.count("aria-label=") > len(data["rows"]) - 2
        assert "<caption" in figure


def test_a_row_in_words_names_its_place_first():
    table = ShownTable.of(
        [{"variant": EVIL, "provider": "cpu", "ndcg_at_5": math.nan}],
        ["variant", "provider", "ndcg_at_5"],
    )
    assert table.describe(0, "on the front") == f"{EVIL} cpu; NDCG@5 \N{EN DASH}; on the front"
    assert table.raw == [[EVIL, "cpu", ""]]


def test_lanes_stay_inside_and_shorten_names():
    rows = [
        ChartLane("a name that is much too long " * 4 + EVIL, "12.3 ms", [Bar(0, 5, "c1", 0)], 0),
        ChartLane("b", "x", [Dot(10, 4, "c1", 0)]),
    ]
    table = ShownTable.of([{"variant": "v"}], ["variant"])
    chart = lanes.chart("k", "m", "c", Axis(from_zero(10, *ACROSS), "ms"), rows, table)
    first, second = chart.drawing.hits
    assert f'width="{WIDTH}"' in first.shape
    assert "circle" in second.shape
    assert "<img" not in chart.drawing.markup
    assert "\N{HORIZONTAL ELLIPSIS}" in chart.drawing.markup
    assert all(0 <= float(x) <= WIDTH for x in re.findall(r' x="([\d.-]+)"', chart.drawing.markup))


@pytest.mark.parametrize(("baseline", "drawn"), [(None, []), (0.0, [2.0]), (5.0, [214.0])])
def test_a_line_to_compare_with_may_stand_at_zero(baseline, drawn):
    rows = [ChartLane("a", "b", [Bar(0, 5, "c1", 0), Bar(5, 9, "c2", 0, height=0.5)])]
    table = ShownTable.of([{"variant": "v"}], ["variant"])
    axis = Axis(linear(0.0, 10.0, *ACROSS, [0.0, 10.0]), "ms", baseline, lane_height=20.0)
    markup = lanes.chart("k", "m", "c", axis, rows, table).drawing.markup
    lines = re.findall(r'class="reference" d="M([\d.]+) 0L([\d.]+) [\d.]+"', markup)
    assert [tuple(map(float, line)) for line in lines] == [(at, at) for at in drawn]
    heights = dict(re.findall(r'class="bar (c\d)" d="M[^v]+v([\d.]+)', markup))
    assert heights == {"c1": "20", "c2": "10"}  # a bar fills its lane


@pytest.mark.parametrize("high", [0.0, -1.0, math.nan, math.inf, 1e-9, 3.0, 1e12])
def test_a_scale_from_zero_holds_any_value(high: float):
    scale = from_zero(high, 0.0, 100.0)
    assert scale.place(0.0) == 0.0
    assert len(scale.ticks) >= 2
    if math.isfinite(high) and high > 0:
        assert scale.place(high) <= 100.0


@pytest.mark.parametrize(("low", "high"), [(1e-8, 1e-7), (1e-8, 2.0), (0.9, 1.1), (3.0, 3.0)])
def test_a_logarithmic_scale_holds_its_ends(low: float, high: float):
    scale = logarithmic(low, high, 0.0, 100.0)
    assert 0 <= scale.place(low) <= scale.place(high) <= 100
    assert scale.ticks or high / low < 2
    assert cost([low, high], 0.0, 100.0).place(low) >= 0


@pytest.mark.parametrize(("high", "is_linear"), [(2.0, True), (15.5, True), (16.0, False)])
def test_a_cost_begins_at_zero_below_a_factor_of_eight(high: float, is_linear: bool):
    scale = cost([high, 2.0], 0.0, 100.0)
    expected = from_zero(high, 0.0, 100.0) if is_linear else logarithmic(2.0, high, 0.0, 100.0)
    assert scale.ticks == expected.ticks
    assert scale.place(high) == expected.place(high)


@pytest.mark.parametrize(
    ("digits", "texts"),
    [(None, ["0", "0.75", "1,500"]), (0, ["0", "1", "1500"]), (2, ["0.00", "0.75", "1500.00"])],
)
def test_ticks_have_the_decimals_that_are_asked_for(digits, texts):
    scale = linear(0.0, 1500.0, 10.0, 40.0, [0.0, 0.75, 1500.0], digits)
    assert [tick.text for tick in scale.ticks] == texts
    assert [tick.at for tick in scale.ticks] == [10.0, 10.015, 40.0]


def test_a_mark_says_its_row_and_what_else_is_known_of_it():
    table = ShownTable.of([{"variant": "int8"}, {"variant": "fp32"}], ["variant"])
    drawing = Drawing(100, 50)
    drawing.hit_circle(10, 5.25, 12, 1, "on the Pareto front")
    drawing.hit_box(1, 2, 3, 4, 0)
    chart = Chart("k", "m", "t", "c", "d", drawing, table)
    assert chart.points == [
        ('circle cx="10" cy="5.2" r="12"', "fp32; on the Pareto front"),
        ('rect x="1" y="2" width="3" height="4"', "int8"),
    ]


def test_the_name_of_an_axis_ends_where_the_axis_does():
    scales = from_zero(2.0, LEFT, RIGHT), from_zero(1.0, BOTTOM, TOP)
    table = ShownTable.of([{"variant": "v"}], ["variant"])
    rows = [ChartLane("a", "b", [Dot(1, 4, "c1", 0)])]
    below = lanes.chart("k", "m", "c", Axis(from_zero(2.0, *ACROSS), "ms"), rows, table)
    for drawing, right in ((framed(*scales, "ms"), RIGHT), (below.drawing, ACROSS[1])):
        (x, anchor), *more = re.findall(
            r'class="axis-label" x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">ms<', drawing.markup
        )
        assert (float(x), anchor, more) == (right, "end", [])
    ticks = re.findall(
        r'class="tick" x="([\d.]+)" .*?text-anchor="(\w+)"', framed(*scales, "").markup
    )
    assert {(float(x) < LEFT, anchor) for x, anchor in ticks} == {(True, "end"), (False, "middle")}


def test_speed_ups_carry_their_range_and_batch_size():
    rows = joined(REFERENCE, variant(), variant(name="fp32", speedup=2.0))
    for item in rows["latency"]:
        item.update(speedup_low=3.5, speedup_high=4.5)
    found = charts(speed.section(Material(make(rows))))
    assert [chart.caption for chart in found] == [
        "Speed-up on documents by batch size",
        "Speed-up on queries by batch size",
    ]
    assert found[0].description == "int8, batch of 1: 4.00\N{MULTIPLICATION SIGN}; " + (
        "fp32, batch of 1: 2.00\N{MULTIPLICATION SIGN}."
    )
    assert found[0].drawing.markup.count('class="reference"') == 1  # as fast as PyTorch
    (_, words), _ = found[0].points
    assert words.startswith("int8 CPU document; Batch 1; Times PyTorch 4.00")
    assert "lowest round 3.50" in words
    assert "highest round 4.50" in words


def test_speed_ups_without_a_range_are_dots():
    assert charts(speed.section(material()))[0].points
    nothing = make(joined(REFERENCE, variant(speedup=None)))
    assert speed.section(Material(nothing)) is None


def errors(*cosines: float) -> pd.DataFrame:
    place = {"model": "m", "variant": "int8", "provider": "CPUExecutionProvider"}
    return pd.DataFrame(
        [
            {**place, "kind": "query", "input": number, "min_cosine": cosine}
            for number, cosine in enumerate(cosines)
        ]
    )


def test_every_input_is_in_one_bin():
    cosines = [1.0, 1.0 - 1e-12, 1 - 3e-4, 0.99, 0.5, -1.0, *np.linspace(0.9, 0.999, 40)]
    (chart,) = charts(losses.section(material(parity_inputs=errors(*cosines))))
    places = chart.table.names.index("inputs")
    assert sum(int(row[places]) for row in chart.table.raw) == len(cosines)
    assert "worst 2.0" in chart.drawing.markup


def queries(**values: list[float]) -> pd.DataFrame:
    """NDCG@5 of queries by variant."""
    return pd.DataFrame(
        [
            {
                **{"model": "m", "variant": name, "provider": "cpu", "dataset": "pages"},
                **{"query": f"q{number}", "ndcg_at_5": value},
            }
            for name, found in values.items()
            for number, value in enumerate(found)
        ]
    )


def test_queries_are_counted_by_their_difference():
    table = queries(pytorch=[1.0, 0.5, 1.0, 0.0], int8=[1.0, 1.0, 0.999, math.nan])
    (chart,) = charts(losses.section(material(retrieval_queries=table)))
    assert "1 worse, 1 better, 1 unchanged" in chart.drawing.markup
    ticks = re.findall(r'class="tick"[^>]*>([^<]+)<', chart.drawing.markup)
    assert [float(tick) for tick in ticks] == [number / 10 for number in range(-5, 6)]
    rows = [dict(zip(chart.table.names, row, strict=True)) for row in chart.table.raw]
    assert [(row["difference"], row["queries"], row["examples"]) for row in rows] == [
        ("-0.05", "1", "q2"),  # however small, it is not unchanged
        ("0", "1", "q0"),
        ("0.5", "1", "q1"),
    ]


def test_nothing_to_pair_is_no_section():
    assert losses.section(material()) is None
    assert losses.section(material(retrieval_queries=queries(int8=[1.0]))) is None


def test_stages_are_summed_and_the_costliest_comes_first():
    jobs = pd.DataFrame(
        {
            "stage": ["parity", "export", "parity", EVIL],
            "job": ["a", "b", "c", "d"],
            "seconds": [10.0, 4000.0, 60.0, 0.5],
            "peak_rss_mb": [100.0, 900.0, 300.0, 5.0],
        }
    )
    (chart,) = charts(run_cost.section(Material({"stages": jobs})))
    assert [row[0] for row in chart.table.raw] == ["export", "parity", EVIL]
    assert "1 h 6 min in 1 job" in chart.drawing.markup
    assert "1 min 10 s in 2 jobs" in chart.drawing.markup
    assert EVIL not in render({"stages": jobs}, {})
    assert run_cost.section(Material({})) is None
