"""The first screen, and sentences beside the tables: what is said is what was measured."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from colport.base.files import write_json
from colport.report import inputs
from colport.report.section import Material, delta_note
from colport.report.sections import operators, speed
from colport.tables import beside_reference, write_tables
from tests.unit.test_report import REFERENCE, RUN, joined, make, page, render, variant
from tests.unit.test_report_operators import rows as profiled

TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"


def timed(*parts: dict[str, list[dict[str, Any]]], **batches: tuple[float, float]) -> dict:
    """Rows with a second batch size of 8, ``variant=(ms, speed-up)`` a document."""
    rows = joined(*parts)
    rows["latency"] = [{**item} for item in rows["latency"]]
    rows["latency"] += [
        {**item, "batch_size": 8, "p50_ms": ms, "speedup_vs_pytorch": ratio}
        for item in rows["latency"]
        for ms, ratio in [batches.get(item["variant"], (400.0, 1.0))]
    ]
    # In the order in which a run writes them: PyTorch first.
    rows["latency"].sort(key=lambda item: item["variant"] != "pytorch")
    return rows


def first_screen(rows: dict, **run: Any) -> list[list[str]]:
    """The cells of each row of the table, as a reader sees them."""
    html = render(make(rows), {**RUN, **run})
    body = re.search(r'<table class="ships".*?<tbody>(.*?)</tbody>', html, re.DOTALL)[1]
    return [
        [
            " ".join(re.sub(r"<[^>]+>", " ", cell).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]


MACHINE = {"cpu": "A CPU", "instructions": ["AVX2", "AVX-512 VNNI"], "commit": "0123456789ab"}


def test_the_first_screen_is_one_row_a_model():
    rows = timed(
        *(REFERENCE, variant(), variant(name="fp32", ms=50.0, mb=120.0)),
        *(variant("n", "pytorch", "torch-cpu", ms=100.0, delta=None, p=None, speedup=1.0),),
        variant(model="n", passed=False),
        int8=(150.0, 2.5),
    )
    for item in rows["latency"]:
        item.update(speedup_low=1.5, speedup_high=4.5)
    for item in rows["retrieval"]:
        item.update(ndcg_at_5_delta_low=-0.02, ndcg_at_5_delta_high=0.012)
    shown, missing = first_screen(rows, environment=MACHINE)
    assert shown == [
        *("m", "int8 on CPU"),
        *(f"4.00{TIMES} (1.50 to 4.50)", f"2.50{TIMES} (1.50 to 4.50)") * 2,
        *("30.0 MB", f"0.800 {MINUS}0.004 ({MINUS}0.020 to +0.012) within noise"),
        "AVX-512 VNNI 0123456789ab",
    ]
    assert missing == [
        *("n", "No variant qualifies int8 on CPU: parity failed"),
        "AVX-512 VNNI 0123456789ab",
    ]


@pytest.mark.parametrize("reason", ["noisy machine: busy", "streamed; noisy machine: busy"])
def test_a_noisy_machine_has_a_badge_in_the_rows_that_it_made(reason):
    rows = timed(REFERENCE, variant(), variant("n", "int8"))
    for item in rows["latency"]:
        item["reason"] = reason if item["model"] == "m" else ""
    noisy, calm = first_screen(rows)
    assert noisy[-1].endswith("noisy machine")
    assert "noisy" not in calm[-1]


def test_what_is_not_known_of_a_machine_is_not_said():
    (row,) = first_screen(timed(REFERENCE, variant()), environment={})
    assert row[-1] == "\N{EN DASH} commit not recorded"


def test_each_model_has_the_machine_that_measured_it(tmp_path):
    rows = timed(REFERENCE, variant(), variant("n", "int8"))
    for item in rows["retrieval"]:
        item.update(ndcg_at_5_low=0.7, ndcg_at_5_high=0.9)
    write_tables(make(rows), tmp_path / "tables")
    for model, strongest in (("m", "AVX2"), ("n", "AMX")):
        measured = [item for item in rows["latency"] if item["model"] == model]
        found = {"cpu": "A CPU", "instructions": [strongest], "commit": model * 12}
        write_json(tmp_path / f"latency/{model}/cpu.json", {"rows": measured, "environment": found})
    environment = inputs.read(inputs.files(tmp_path))[2]
    ends = [row[-1] for row in first_screen(rows, environment=environment)]
    assert ends == [f"AVX2 {'m' * 12}", f"AMX {'n' * 12}"]


def test_the_time_of_pytorch_is_that_of_the_row_s_own_run():
    """Not the time times the ratio, which is a median over rounds and gives another figure."""
    cuda = variant(name="int8", provider="openvino", ms=30.0, speedup=3.0)
    again = variant(name="pytorch", provider="torch-cpu", ms=91.0, delta=None, p=None, speedup=1.0)
    first = joined(REFERENCE, variant(name="int8", ms=24.0, mb=30.0, speedup=4.0))
    assert f"4.00{TIMES}; PyTorch: 100 ms" in page(joined(first, again, cuda)).text
    second = variant(name="int8", provider="openvino", ms=20.0, speedup=5.0)
    assert f"5.00{TIMES}; PyTorch: 91.0 ms" in page(joined(first, again, second)).text
    alone = joined(variant(speedup=4.0))
    assert "; PyTorch:" not in page(alone).text


def test_a_run_without_pytorch_takes_no_other_run_s():
    rows = joined(REFERENCE, variant(), REFERENCE, variant(name="fp32"))
    latency = make(rows)["latency"].reset_index(drop=True)
    latency.loc[4:5, "status"] = "failed"
    found = beside_reference(latency)
    assert found["reference_ms"].isna().tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("one", "other", "fastest"),
    [
        ((4.0, 25.0), (4.6, 26.0), "fp32"),  # the larger ratio, although its median is larger
        ((4.6, 26.0), (4.0, 25.0), "int8"),
        ((4.0, 25.0), (4.0, 25.0), "int8"),
    ],
)
def test_the_fastest_has_the_largest_of_the_ratios_that_are_told(one, other, fastest):
    rows = joined(
        REFERENCE,
        variant(name="int8", speedup=one[0], ms=one[1], mb=30.0),
        variant(name="fp32", speedup=other[0], ms=other[1], mb=31.0),
    )
    summary = make(rows)["summary"].set_index("variant")
    assert summary["recommended"][lambda column: column].index.tolist() == [fastest]
    text = page(rows).text
    assert "Fastest within parity on documents at batch 1" in text
    assert "Faster on documents" not in text


def test_of_two_references_times_are_compared():
    """1.5 times PyTorch on a GPU is faster than 4 times PyTorch on a CPU."""
    gpu = variant(name="pytorch", provider="torch-cuda", ms=6.0, delta=None, p=None, speedup=1.0)
    fast = variant(name="fp16", provider="cuda", ms=4.0, mb=60.0, speedup=1.5)
    summary = make(joined(REFERENCE, variant(), gpu, fast))["summary"].set_index("variant")
    assert summary.loc["fp16", "recommended"]


def test_what_is_not_the_fastest_is_not_called_so():
    """A tie goes to the better one; the faster one is named with its own figures."""
    worse = variant(name="int4", ms=24.0, mb=31.0, delta=-0.009, p=0.001)
    text = page(joined(REFERENCE, variant(delta=0.0, p=1.0), worse)).text
    assert "As fast as the fastest on documents at batch 1, smallest" in text
    assert f"Faster on documents: int4 on CPU at batch 1 (24.0 ms, 4.17{TIMES})." in text


def test_a_claim_names_its_batch_and_the_other_batch_is_in_view():
    rows = timed(
        *(REFERENCE, variant(), variant(name="fp16", ms=50.0, mb=20.0)),
        **{"int8": (160.0, 2.5), "fp16": (125.0, 3.2)},
    )
    text = page(rows).text
    assert "Fastest within parity on documents at batch 1" in text
    said = "4.00 times as fast as PyTorch on documents and 4.00 times on queries at batch 1; "
    assert f"{said}at batch 8, 2.50 times on documents and 2.50 times on queries;" in text
    assert f"Faster on documents: fp16 on CPU at batch 8 (125 ms, 3.20{TIMES})." in text


@pytest.mark.parametrize(
    ("figures", "note"),
    [
        ((0.0, 1.0, 0.0, 0.0), "same as PyTorch"),
        ((-1e-14, 1.0, -1e-14, 2e-13), "same as PyTorch"),
        ((0.0, 1.0, None, None), "same as PyTorch"),
        ((0.0, 1.0, -0.002, 0.003), "within noise"),
        ((-0.0004, 0.5, -0.001, 0.0), "within noise"),
        ((-0.02, 0.001, -0.03, -0.01), "loss"),
        ((0.02, 0.001, 0.01, 0.03), "gain"),
    ],
)
def test_what_does_not_differ_is_called_the_same(figures, note):
    assert delta_note(*figures) == note
    delta, p_value, low, high = figures
    rows = joined(REFERENCE, variant(delta=delta, p=p_value))
    rows["retrieval"][-1].update(ndcg_at_5_delta_low=low, ndcg_at_5_delta_high=high)
    text = page(rows).text
    if note == "same as PyTorch":
        assert f"0.800 {note}" in text
        assert "NDCG@5 is that of PyTorch." in text
        assert "0.000 to PyTorch" not in text
        assert "p = 1.00" not in text[: text.index("The rule")]
    elif note != "loss":
        assert "NDCG@5 is that of PyTorch." not in text


def test_a_small_difference_is_not_said_to_be_none():
    text = page(joined(REFERENCE, variant(delta=-0.0004, p=0.5))).text
    assert "NDCG@5 is 0.04 points lower, which is within noise" in text
    text = page(joined(REFERENCE, variant(delta=-0.0004, p=None))).text
    assert "NDCG@5 is 0.04 points lower, which was not tested" in text


def test_providers_that_did_not_run_are_not_counted_as_measured():
    limited = variant(name="fp16", provider="CUDAExecutionProvider")
    for rows in limited.values():
        for item in rows:
            item.update(status="unsupported", reason="no GPU")
    text = page(joined(REFERENCE, variant(), variant(name="peer-optimum"), limited)).text
    assert "1 model, 1 variant, 1 provider, measured on" in text


def scales(*speedups: float) -> list[str]:
    parts = [
        part
        for number, ratio in enumerate(speedups)
        for part in (
            variant(f"m{number}", "pytorch", "torch-cpu", ms=100.0, speedup=1.0),
            variant(f"m{number}", speedup=ratio),
        )
    ]
    groups = speed.section(Material(make(joined(*parts))))["groups"].values()
    return [
        re.sub(r' y="[\d.]+"', "", "".join(re.findall(r'<text class="tick.*?</text>', drawing)))
        + "".join(re.findall(r'class="axis-label"[^>]*>([^<]+)', drawing))
        for charts in groups
        for drawing in [chart.drawing.markup for chart in charts]
    ]


@pytest.mark.parametrize(("speedups", "is_logarithmic"), [((1.5, 4), False), ((1.2, 30), True)])
def test_speed_charts_have_one_scale_and_a_logarithm_is_marked(speedups, is_logarithmic):
    found = scales(*speedups)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0].endswith("Times PyTorch, logarithmic" if is_logarithmic else "Times PyTorch")


def test_an_operator_has_one_colour_in_all_charts():
    parts = [
        profiled("fp32", {"MatMul": 9.0, "Add": 1.0}, 10.0, model="a"),
        profiled("fp32", {"Add": 50.0, "Conv": 40.0, "MatMul": 10.0}, 100.0, model="b"),
        profiled("fp32", {f"Op{number}": 1.0 for number in range(20)}, 5.0, model="c"),
    ]
    table = pd.DataFrame([row for part in parts for row in part])
    charts = operators.section(Material({"operators": table}))["groups"][""]
    legends = [chart.legend for chart in charts]
    for name in ("MatMul", "Add"):
        assert legends[0][name] == legends[1][name]
    named = {name: colour for legend in legends for name, colour in legend.items()}
    own = [colour for name, colour in named.items() if name != "other"]
    assert len(own) == len(set(own)) <= operators.COLOURS
    assert all("other" not in legend for legend in legends[:2])
