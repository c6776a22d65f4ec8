from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from colport import report, tables
from colport.base.columns import row as columns_row
from colport.report import Report
from colport.report.charts import scatter
from colport.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP
from colport.report.charts.marks import Mark, shape_and_colour
from colport.report.charts.scatter import Point, pareto
from colport.report.columns import ShownTable
from colport.report.page import BEHAVIOUR, STYLES, _script_json
from colport.report.sections.views import table_view
from colport.tables.summary import summary_table

RUN = {
    "title": "Demo",
    "created": "2026-03-04T05:06:00+00:00",
    "colport_version": "0.1.0",
    "environment": {
        "cpu": "A CPU",
        "cores": 2,
        "gpu": None,
        "packages": {"onnx": "1.23.2"},
        "provider_packages": {"openvino": {"onnxruntime-openvino": "1.24.1"}},
    },
    "settings": {"models": ["m"], "hub": {"token": "s3cret-value"}},
    "allow_failed_parity": False,
}


def render(*given: Any, **named: Any) -> str:
    return Report(*given, **named).html()


def row(name: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(tables.COLUMNS[name]), "status": "ok", "reason": "", **values}


def measured(rows: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    return {
        name: tables.flatten(name, [{"rows": rows.get(name, [])}])
        for name in ("export", "parity", "retrieval", "latency")
    }


def make(rows: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    found = measured(rows)
    return {**found, "summary": summary_table(**found)}


def variant(
    model: str = "m", name: str = "int8", provider: str = "CPUExecutionProvider", **figures: Any
) -> dict[str, list[dict[str, Any]]]:
    """Rows of one variant; figures: ms, mb, ndcg, delta, p, passed, speedup."""
    f = {"ms": 25.0, "mb": 30.0, "ndcg": 0.8, "delta": -0.004, "p": 0.4, "passed": True}
    f |= figures
    f |= {"speedup": 100 / f["ms"] if f["ms"] else None} | figures  # PyTorch takes 100 ms
    place = {"model": model, "variant": name, "provider": provider}
    quality = {"ndcg_at_5": f["ndcg"], "ndcg_at_5_delta": f["delta"], "p_value": f["p"]}
    speed = {"p50_ms": f["ms"], "speedup_vs_pytorch": f["speedup"], "batch_size": 1}
    parity = {"passed": f["passed"], "max_abs_diff": 0.031, "tolerance": "max_abs_diff<=0.01"}
    rows = {
        "export": [row("export", model=model, variant=name, folder_bytes=int(f["mb"] * 1e6))],
        "parity": [row("parity", **place, kind=kind, **parity) for kind in ("query", "document")],
        "retrieval": [row("retrieval", **place, dataset="pages", queries=100, **quality)],
        "latency": [row("latency", **place, kind=kind, **speed) for kind in ("query", "document")],
    }
    if name == "pytorch":
        rows["export"], rows["parity"] = [], []
    return rows


def joined(*parts: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [item for part in parts for item in part[name]]
        for name in ("export", "parity", "retrieval", "latency")
    }


REFERENCE = variant(name="pytorch", provider="torch-cpu", ms=100.0, delta=None, p=None, speedup=1.0)


class Page(HTMLParser):
    """Text of a page, element by element, and whether its elements nest."""

    VOID = frozenset({"meta", "input", "img", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [values[key] or "" for key in ("src", "href") if key in values]
        assert not any(key.startswith("on") or key == "style" for key in values)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page(rows: dict[str, list[dict[str, Any]]], **run: Any) -> Page:
    found = Page(render(make(rows), {**RUN, **run}))
    assert found.stack == []
    assert len(found.ids) == len(set(found.ids))
    return found


def test_packages_of_a_provider_s_own_python_name_the_provider():
    html = render(make({}), RUN)
    for name, version in (("onnx", "1.23.2"), ("onnxruntime-openvino (openvino)", "1.24.1")):
        assert f"<dt>{name}</dt><dd>{version}</dd>" in html


def test_every_asset_is_in_the_page():
    html = render(make({}), RUN)
    assets = Path(report.__file__).parent / "assets"
    assert {file.name for file in assets.iterdir()} == {*STYLES, *BEHAVIOUR}
    for name in (*STYLES, *BEHAVIOUR):
        assert (assets / name).read_text().strip() in html, name
    assert STYLES[-1] == "media.css"  # what a narrow screen and paper change, over all others


def test_recommendation_in_words_and_figures():
    text = page(joined(REFERENCE, variant(), variant(name="fp32", ms=60.0, mb=120.0))).text
    assert "Ship int8 on CPU ." in text
    assert "4.00 times as fast as PyTorch on documents and 4.00 times on queries" in text
    assert "75% smaller than fp32" in text
    assert "NDCG@5 is 0.4 points lower, which is within noise" in text
    assert "\N{MINUS SIGN}0.004 to PyTorch, within noise (p = 0.40)" in text
    assert (
        "Fastest within parity on documents at batch 1, smallest within 1% of the quality" in text
    )
    assert "4.00\N{MULTIPLICATION SIGN}; PyTorch: 100 ms" in text
    assert "qualifies; a document takes 2.4 times as long" in text


def test_a_significant_loss_is_called_a_loss():
    text = page(joined(REFERENCE, variant(delta=-0.008, p=0.001))).text
    assert "it loses 0.8 points of NDCG@5" in text
    assert "\N{MINUS SIGN}0.008 to PyTorch, loss (p = 0.001)" in text
    assert "within noise (p" not in text


def test_each_need_has_its_variant_with_interval_and_range():
    rows = joined(
        REFERENCE,
        variant(name="int8", ms=25.0, mb=30.0),
        variant(name="int4", ms=50.0, mb=15.0, speedup=2.0),
    )
    for item in rows["retrieval"][1:]:
        item.update(ndcg_at_5_delta_low=-0.02, ndcg_at_5_delta_high=0.012)
    for item in rows["latency"]:
        item.update(speedup_low=1.9, speedup_high=4.2, reason="noisy machine: busy")
    text = page(rows).text
    first, second = (
        text.index(
            "Fastest within parity on documents at batch 1, "
            "best quality within noise or 0.2 points Ship int8 on CPU ."
        ),
        text.index("Smallest within 1% of the quality Ship int4 on CPU ."),
    )
    assert first < second  # in the order of their needs, the first of each
    interval = "(\N{MINUS SIGN}0.020 to +0.012), within noise"
    assert text.count(interval) == 2
    assert "(1.90 to 4.20); PyTorch" in text
    assert text.count("The machine was busy") == 1
    assert "Measured on A CPU, 2 cores." in text


def test_only_its_own_figures_make_a_choice_doubtful():
    rows = joined(REFERENCE, variant(name="int8"), variant(name="fp32", ms=90.0, mb=90.0))
    busy = "The machine was busy"
    for item in rows["latency"]:
        item["reason"] = "" if item["variant"] == "int8" else "noisy machine: busy"
    assert busy not in page(rows).text
    for item in rows["latency"]:
        item["reason"] = "noisy machine: busy" if item["variant"] == "int8" else ""
    assert busy in page(rows).text


def test_the_worst_dataset_is_named():
    rows = joined(REFERENCE, variant(delta=0.06, p=0.5))
    others = {"forms": (-0.01, 0.04), "charts": (-0.03, 0.01), "maps": (-0.04, 0.06)}
    for dataset, (delta, p) in others.items():
        further = variant(delta=delta, p=p)["retrieval"]
        further[0]["dataset"] = dataset
        rows["retrieval"] += further
        rows["retrieval"].append({**REFERENCE["retrieval"][0], "dataset": dataset})
    text = page(rows).text
    assert "Its largest significant loss is 3.0 points, on charts (p = 0.010)." in text


def test_a_slower_recommendation_says_so():
    assert "slower on documents and queries" in page(joined(REFERENCE, variant(speedup=0.8))).text


def test_none_qualifies_and_why():
    text = page(joined(REFERENCE, variant(passed=False)), allow_failed_parity=True).text
    assert "No variant qualifies." in text
    assert "int8 on CPU : parity failed" in text
    assert "✕ failed" in text
    assert "m, int8 on CPU, document" in text
    assert "largest difference 3.1\N{MULTIPLICATION SIGN}10⁻²" in text
    assert "allow_failed_parity" in text
    assert "Ship int8" not in text


def test_only_pytorch():
    assert "Only the PyTorch reference was measured." in page(REFERENCE).text


def test_no_tables_at_all():
    html = render({}, {})
    assert "nothing to recommend" in html
    assert html.count("No rows.") == 5
    assert "nothing to draw" in html


def test_everything_failed():
    rows = joined(variant(), variant(name="fp32"))
    for name, items in rows.items():
        for item in items:
            item.update({key: None for key in item if key not in ("model", "variant", "provider")})
            item.update(status="failed", reason=f"{name} ran out of memory", kind="query")
    found = page(rows)
    assert "No variant qualifies." in found.text
    assert "latency ran out of memory stage: latency; model: m; variants: int8, fp32" in found.text
    assert found.counts.get("figure") is None


def test_an_unsupported_provider_is_told_once():
    reason = "CUDAExecutionProvider is not on this machine."
    rows = variant(provider="CUDAExecutionProvider")
    for name in ("parity", "retrieval", "latency"):
        for item in rows[name]:
            item.update(status="unsupported", reason=reason, ndcg_at_5=None, p50_ms=None)
    text = page(joined(REFERENCE, variant(), rows)).text
    problems = text[text.index("Unsupported here") :]
    assert problems.count(reason) == 1
    assert "stages: parity, retrieval, latency; model: m; variant: int8; provider: CUDA" in problems
    assert "(5 rows)" in problems


def test_baselines_stand_in_the_retrieval_table_only():
    place = {"model": "-", "provider": "-", "dataset": "pages"}
    limit = {"status": "unsupported", "reason": "The documents have no text layer."}
    rows = joined(REFERENCE, variant())
    rows["retrieval"] += [
        row("retrieval", **place, variant="shuffled", ndcg_at_5=0.0312),
        row("retrieval", **place, variant="bm25", **limit),
    ]
    text = page(rows).text
    assert "baseline shuffled - pages" in text
    assert text.count("shuffled -") == text.count("baseline shuffled") == 1
    problems = text[text.index("Unsupported here") :]
    assert (
        "The documents have no text layer. stage: retrieval; variant: bm25; dataset: pages"
        in problems
    )


def test_missing_figures_are_en_dashes():
    nothing = dict.fromkeys(("ms", "ndcg", "delta", "p", "speedup"), float("nan"))
    found = page(joined(variant(**nothing, passed=None)))
    assert "\N{EN DASH}" in found.text
    assert not re.search(r"\b(nan|NaN|None|<NA>|inf)\b", found.text)


@pytest.mark.parametrize(
    ("run", "title"),
    [({"title": "Q"}, "Q"), ({"title": ""}, "ColPort report"), ({"title": None}, "ColPort report")],
)
def test_a_run_without_a_title_has_ours(run, title):
    html = render(make({}), run)
    assert re.findall(r"<(title|h1)\b[^>]*>([^<]*)</", html) == [("title", title), ("h1", title)]


def test_json_in_a_script_neither_ends_it_nor_a_line():
    found = _script_json(["</script>", "a\u2028b\u2029c", "é"])
    assert found == '["\\u003c/script>","a\\u2028b\\u2029c","é"]'
    assert json.loads(found) == ["</script>", "a\u2028b\u2029c", "é"]


def test_names_are_escaped_everywhere():
    evil = '<script>alert("x")</script>&\u2028</title>'
    rows = joined(
        variant(model=evil, name=evil, provider=evil),
        variant(model="コル·ポート", name="İnt8"),
    )
    rows["parity"][0].update(status="failed", reason=evil)
    html = render(make(rows), {**RUN, "title": evil, "settings": {evil: evil}})
    assert "<script>alert" not in html
    assert "</title>&" not in html
    assert "コル·ポート" in html
    found = Page(html)
    assert found.stack == []
    assert found.counts["script"] == html.count("</script>")


def test_nothing_is_loaded_and_only_known_code_runs():
    html = render(make(joined(REFERENCE, variant())), RUN)
    assert all(link.startswith("#") for link in Page(html).links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert re.search(r"default-src &#39;none&#39;|default-src 'none'", html)
    assert "unsafe-inline" not in html


def test_secrets_are_blanked():
    rows = variant()
    rows["parity"][0].update(status="failed", reason="401 for hf_abcdefghijklmnopqrstuvwxyz")
    html = render(make(rows), {**RUN, "environment": {"url": "https://user:pass@hub/x"}})
    for secret in ("s3cret-value", "hf_abcdef", "user:pass"):
        assert secret not in html
    assert "•••" in html


def test_table_data_equals_the_csv_files(tmp_path):
    written = make(joined(REFERENCE, variant()))
    tables.write_tables(written, tmp_path)
    html = render(written, RUN)
    found = re.findall(r'<script type="application/json">(.*?)</script>', html)
    found = [data for data in map(json.loads, found) if data["name"] in tables.COLUMNS]
    assert len(found) == 5
    for data in found:
        frame = pd.read_csv(tmp_path / f"{data['name']}.csv", dtype=object, keep_default_na=False)
        assert data["columns"] == list(frame.columns)
        assert data["rows"] == frame.to_numpy().tolist()


def test_accessible_structure():
    html = render(make(joined(REFERENCE, variant())), RUN)
    assert '<a class="skip" href="#recommendation">' in html
    assert '<th scope="col"' in html
    assert '<th scope="row"' in html
    assert html.count('role="img" aria-labelledby="latency-0-title latency-0-desc"') == 1
    assert '<html lang="en">' in html
    assert "4 March 2026, 05:06 UTC" in html


def test_two_thousand_rows_stay_below_five_megabytes():
    parts = [variant(model=f"model-{i}", name=f"v{j}") for i in range(100) for j in range(10)]
    for number, part in enumerate(parts):
        part["latency"][0].update(
            dict.fromkeys(("p90_ms", "p95_ms", "p99_ms", "mean_ms"), 1.0 / (number + 7))
        )
    complete = make(joined(*parts[:10]))
    # Rows of one model's summary stand for those of all, which take seconds to make.
    summaries = [complete["summary"].assign(model=f"model-{i}") for i in range(100)]
    complete = {**measured(joined(*parts)), "summary": pd.concat(summaries)}
    assert len(complete["latency"]) == 2 * len(complete["summary"]) == 2000
    html = render(complete, RUN)
    assert len(html.encode()) < 5_000_000
    assert "88 more are in the tables" in html


def test_a_table_of_another_shape_is_shown_with_its_further_columns():
    summary = make(joined(REFERENCE, variant()))["summary"].drop(columns=["verdict", "p_value"])
    html = render({"summary": summary.assign(my_column=1.5)}, RUN)
    assert "My column" in html
    assert "Ship <strong>int8</strong>" in html


def point(x: float, y: float, sound: bool = True) -> Point:
    return Point(x, y, "a", 0, Mark("M0 0", "c1"), sound)


def test_pareto_front():
    points = [point(3, 0.9), point(1, 0.7), point(2, 0.6), point(1, 0.65), point(4, 0.9)]
    assert pareto(points) == [1, 0]
    assert pareto([point(1, 0.9, sound=False), point(2, 0.8)]) == [1]
    assert pareto([]) == []


@pytest.mark.parametrize(
    "points",
    [
        [point(1e-4, 0.0)],
        [point(5.0, 1.0), point(5.0, 1.0)],
        [point(0.01, 0.2), point(1e7, 0.9)],
        [point(10.0, 0.5), point(11.0, 0.5001)],
    ],
)
def test_a_chart_stays_inside_its_frame(points: list[Point]):
    table = ShownTable.of([{"variant": "a"}], ["variant"])
    chart = scatter.chart("k", "m", "c", "x", points, table, reference=0.95, accepted_loss=0.01)
    assert chart is not None
    assert len(chart.points) == len(points)
    for shape, words in chart.points:
        x, y = map(float, re.findall(r'c[xy]="([\d.]+)"', shape))
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM
        assert words.startswith("a")
    ticks = re.findall(
        r'class="tick" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', chart.drawing.markup
    )
    along = [tick for tick in ticks if float(tick[1]) == BOTTOM + 18]
    beside = [tick for tick in ticks if float(tick[1]) != BOTTOM + 18]
    assert len(along) >= 2 or len(points) == 1
    assert all(LEFT - 0.1 <= float(x) <= RIGHT + 0.1 for x, _, _ in along)
    assert len({text for _, _, text in along}) == len(along)
    assert len({text for _, _, text in beside}) == len(beside) >= 2


def test_providers_share_a_point_in_the_size_chart():
    rows = joined(REFERENCE, variant(), variant(provider="CUDAExecutionProvider", ms=5.0))
    html = render(make(rows), RUN)
    latency, size = re.findall(r'<svg [^>]*role="img".*?</svg>', html, re.DOTALL)[:2]
    assert latency.count('class="mark') == 3
    assert size.count('class="mark') == 1
    assert "int8, CUDA" in latency
    assert ">int8</text>" in size


def stored(rows: dict[str, list[dict[str, Any]]], **sizes: tuple[int, float]) -> None:
    """Add a row a form to every retrieval row: bytes a document, and NDCG@5."""
    for full in list(rows["retrieval"]):
        full.update(embeddings="full", bytes_per_document=76800)
        for name, (size, ndcg) in sizes.items():
            figures = {"ndcg_at_5": ndcg, "ndcg_at_5_delta": ndcg - 0.8, "p_value": 0.001}
            rows["retrieval"].append(
                {**full, "embeddings": name, "bytes_per_document": size, **figures}
            )


def test_quality_against_the_bytes_of_a_document():
    rows = joined(REFERENCE, variant())
    more = copy.deepcopy(rows["retrieval"])
    for item in more:
        item.update(dataset="charts", ndcg_at_5=0.6)
    rows["retrieval"] += more
    rows = copy.deepcopy(rows)
    stored(rows, binary=(2400, 0.5), half=(38400, 0.7))
    html = render(make(rows), RUN)
    assert "labels are the forms that they are stored in" in html
    chart = re.findall(r'<svg [^>]*role="img".*?</svg>', html, re.DOTALL)[2]
    assert "Embeddings of a document, kB" in chart
    assert chart.count('class="mark') == 2 * 3
    labels = re.findall(r'class="label[^>]*>([^<]*)', chart)
    assert sorted(labels) == ["binary", "full", "half"]  # not one for each variant
    words = "int8 CPU; Embeddings binary; A document 2.40 kB; NDCG@5 0.500;"
    assert f'aria-label="{words}' in html
    full = words.replace("binary", "full").replace("2.40", "76.8").replace("0.5", "0.7")
    assert f'aria-label="{full}' in html
    data = {
        found["name"]: pd.DataFrame(found["rows"], columns=found["columns"])
        for found in map(
            json.loads, re.findall(r'<script type="application/json">(.*?)</script>', html)
        )
    }
    assert len(data["retrieval"]) == 4  # forms are in their own table
    assert sorted(data["embeddings"]["embeddings"]) == sorted(["full", "binary", "half"] * 2)
    int8 = data["embeddings"].set_index(["variant", "embeddings"]).loc["int8"]
    assert int8.loc["full", "ndcg_at_5"] == "0.7"
    assert int8.loc["binary", "bytes_per_document"] == "2400"


def test_a_published_score_is_within_noise_or_says_how_far_it_is_off():
    place = {"model": "colqwen2", "provider": "cpu", "dataset": "docvqa", "benchmark": "ViDoRe v1"}
    place |= {"metric": "ndcg_at_5", "gain": "linear", "source": "a <card>"}
    place |= {"score_low": 0.55, "score_high": 0.65, "score": 0.6}
    beside = [
        columns_row("published", **place, variant=name, published=score, published_delta=delta)
        for name, score, delta in (("a", 0.55, 0.05), ("b", 0.66, -0.06), ("c", 0.5, 0.1))
    ]
    made = make(joined(REFERENCE, variant()))
    table = pd.DataFrame(beside)
    html = render({**made, "published": table}, RUN)
    assert "Published scores" in html
    assert "a &lt;card&gt;" in html
    notes = [row[1][9][1:3] for row in table_view("published", table)["rows"]]
    assert notes == [("within noise", "n"), ("below", "n bad"), ("above", "n")]
    assert "Published scores" not in render(made, RUN)


def test_smaller_embeddings_change_nothing_else():
    rows = joined(REFERENCE, variant())
    before = copy.deepcopy(rows)
    stored(rows, binary=(2400, 0.1))
    rows["retrieval"][-1].update(status="unsupported", reason="too few dimensions")
    assert make(rows)["summary"].equals(make(before)["summary"])
    found = page(rows).text
    assert "NDCG@5 is 0.4 points lower, which is within noise" in found
    assert "Its largest significant loss" not in found
    assert "too few dimensions" in found
    assert "Smaller embeddings" not in page(before).text


@pytest.mark.parametrize(
    ("chosen", "drawn", "places"),
    [
        (None, "ab", {"a": (11, 0.509), "b": (2, 0.509), "c": (5, 0.508)}),
        (2, "bc", {"a": (8, 0.507), "b": (2, 0.51), "c": (4, 0.507)}),
    ],
)
def test_labels_of_the_chosen_and_of_the_front_have_room_first(chosen, drawn, places):
    """There is none for three; the front is b."""
    points = [
        replace(point(*places[name]), label=24 * name, row=row, chosen=row == chosen)
        for row, name in enumerate(places)
    ]
    table = ShownTable.of([{"variant": name} for name in places], ["variant"])
    chart = scatter.chart("k", "m", "c", "x", points, table, None, 0.01)
    labels = re.findall(r'class="label[^>]*>([^<]*)<', chart.drawing.markup)
    assert {label[0] for label in labels} == set(drawn)


def test_no_chart_without_points():
    points = [point(float("nan"), 0.5), point(0.0, 0.5)]
    assert scatter.chart("k", "m", "c", "x", points, ShownTable.of([], []), None, 0.01) is None


def test_variants_differ_in_shape_and_colour():
    assert len({shape_and_colour(number) for number in (None, *range(56))}) == 57


def unjudged(name: str, agreement: float | None, **figures: Any) -> dict[str, list[dict[str, Any]]]:
    rows = variant(name=name, ndcg=None, delta=None, p=None, **figures)
    found = {"agreement": agreement, "agreement_low": 0.91, "agreement_high": 0.99}
    rows["retrieval"][0] |= found if agreement else {}
    return rows


def test_without_judgements_agreement_is_told_and_not_called_quality():
    reference = unjudged("pytorch", None, provider="torch-cpu", ms=100.0, speedup=1.0)
    parts = [unjudged("int8", 0.973, ms=25.0, mb=30.0), unjudged("int4", 1.0, ms=50.0, mb=20.0)]
    text = page(joined(reference, *parts)).text
    advice = text[text.index("Fastest within parity") : text.index("The rule")]
    assert "its rankings keep 97.3% of PyTorch's best documents;" in advice
    assert "its rankings keep all of PyTorch's best documents;" in advice
    assert "0.973 of PyTorch's best documents (0.910 to 0.990)" in advice
    assert "Smallest that agrees with PyTorch's rankings, closest to PyTorch's rankings" in advice
    assert advice.replace("its quality is not known", "").count("quality") == 0
    assert "NDCG" not in advice
    assert "Without judgements there is no quality to draw" in text
    rows = joined(REFERENCE, variant())
    assert "Agreement is" not in page(rows).text
    rows["retrieval"] += [
        item | {"dataset": "own"} for part in (reference, parts[0]) for item in part["retrieval"]
    ]
    text = page(rows).text
    assert "; where there are no judgements, its rankings keep 97.3% of PyTorch's best" in text
    assert "0.973 of PyTorch's best documents (0.910 to 0.990), where there are no" in text


def test_a_further_column_that_no_row_has_a_value_for_is_not_visible_at_first():
    def shown(*parts: dict[str, list[dict[str, Any]]]) -> dict[str, bool]:
        table = make(joined(*parts))["summary"]
        data = table_view("summary", table)["data"]
        return dict(zip(data["columns"], data["shown"], strict=True))

    judged, own = shown(REFERENCE, variant()), shown(unjudged("int8", 0.95))
    assert (judged["ndcg_at_5"], judged["agreement"]) == (True, False)
    assert (own["ndcg_at_5"], own["agreement"]) == (True, True)
