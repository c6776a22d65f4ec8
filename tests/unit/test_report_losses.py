"""Distributions of errors and differences: pairs, bins and tolerances, figure by figure."""

import re

import pandas as pd
import pytest

from colport.report import formatting as fmt
from colport.report.sections import losses
from tests.unit.test_report_charts import charts, material


def scored(*rows):
    names = ("variant", "dataset", "query", "ndcg_at_5")
    place = {"model": "m", "provider": "cpu"}
    return pd.DataFrame([{**place, **dict(zip(names, row, strict=True))} for row in rows])


def test_a_query_is_paired_with_pytorch_s_on_the_same_dataset():
    table = scored(
        *(("pytorch", "pages", "q1", 0.9), ("pytorch", "charts", "q1", 0.2)),
        *(("int8", "pages", "q1", 0.8), ("int8", "charts", "q1", 0.5), ("int8", "other", "q1", 1)),
    )
    found = losses.paired(material(retrieval_queries=table))
    assert found[["dataset", "variant"]].to_numpy().tolist() == [
        ["pages", "int8"],
        ["charts", "int8"],
    ]
    assert found["difference"].tolist() == pytest.approx([-0.1, 0.3])
    elsewhere = table[table["variant"] == "pytorch"].assign(provider="torch-cuda", ndcg_at_5=0.0)
    twice = losses.paired(material(retrieval_queries=pd.concat([table, elsewhere])))
    assert twice["difference"].tolist() == found["difference"].tolist()


def rows_of(chart):
    return [dict(zip(chart.table.names, row, strict=True)) for row in chart.table.raw]


def test_errors_lie_in_bins_of_a_quarter_of_a_decade():
    place = {"model": "m", "variant": "int8", "provider": "cpu", "kind": "query"}
    cosines = [1 - 2e-4, 1 - 2.5e-4, 1 - 0.02, 1.0]
    table = pd.DataFrame(
        [{**place, "input": n, "min_cosine": cosine} for n, cosine in enumerate(cosines)]
    )
    (chart,) = charts(losses.section(material(parity_inputs=table)))
    found = [
        (float(r["error_from"]), float(r["error_to"]), int(r["inputs"])) for r in rows_of(chart)
    ]
    assert [count for *_, count in found] == [1, 2, 1]
    assert found[0][:2] == pytest.approx((1e-8, 10**-7.75), rel=1e-3)  # none at all
    assert found[1][:2] == pytest.approx((10**-3.75, 10**-3.5), rel=1e-3)
    assert found[2][:2] == pytest.approx((10**-1.75, 10**-1.5), rel=1e-3)
    median, worst = fmt.scientific(2.25e-4), fmt.scientific(0.02)
    assert chart.description == f"int8, queries: median {median}, worst {worst}."
    heights = re.findall(r'class="bar c1" d="M[^v]+v(\d+)', chart.drawing.markup)
    assert heights == ["11", "22", "11"]
    assert rows_of(chart)[1]["inputs"] == "2"


def test_a_tolerance_is_marked_on_its_variant_s_lane():
    place = {"model": "m", "provider": "cpu", "kind": "query", "input": 0, "min_cosine": 0.999}
    table = pd.DataFrame([{**place, "variant": name} for name in ("int8", "fp32", "fp16")])
    parity = pd.DataFrame({"model": "m", "variant": ["int8"], "tolerance": ["min_cosine>=0.99"]})
    (chart,) = charts(losses.section(material(parity_inputs=table, parity=parity)))
    (limit,) = re.findall(r'class="limit" d="M([\d.]+) ', chart.drawing.markup)
    ticks = dict(re.findall(r'class="tick" x="([\d.]+)"[^>]*>([^<]+)<', chart.drawing.markup))
    assert ticks[limit] == "10" + fmt.scientific(0.01).partition("10")[2]


def test_the_tolerance_is_the_error_that_is_allowed():
    parity = pd.DataFrame(
        {
            "model": ["m", "m", "m", "other"],
            "variant": ["int8", "fp32", "fp16", "int8"],
            "tolerance": [
                "min_cosine>=0.97",
                "max_abs_diff<=0.0001 min_cosine>=0.99999",
                "",
                "min_cosine>=0.5",
            ],
        }
    )
    assert losses._limits(parity, "m") == pytest.approx({"int8": 0.03, "fp32": 1e-5})
