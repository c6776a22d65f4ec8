"""Captioners in the report: captions side by side, and the words of the recommendation."""

import pandas as pd
import pytest

from colport.base.columns import row
from colport.report.page import Report
from colport.report.sections import captions
from colport.tables.summary import build
from colport.timing.statistics import add_token_times
from tests.unit.test_report_charts import material

PLACE = {"model": "m", "dataset": "pages"}


def items(*rows):
    names = ("variant", "item", "caption")
    made = [{**PLACE, "provider": "cpu", **dict(zip(names, one, strict=True))} for one in rows]
    return pd.DataFrame(made)


def test_captions_that_differ_come_first_and_their_words_are_marked():
    table = items(
        *(("pytorch", "a", "a red circle"), ("pytorch", "b", "a blue square on top")),
        *(("int8", "a", "a red circle"), ("int8", "b", "a green  square")),
    )
    ((heading, pictures),) = captions.section(material(caption_items=table))["examples"].items()
    assert heading == "m on pages"
    assert [picture["item"] for picture in pictures] == ["b", "a"]
    (one,) = pictures[0]["captions"]
    assert one["name"] == "int8"
    assert "".join(text for text, _ in one["parts"]) == "a green  square"
    assert [text for text, known in one["parts"] if not known] == ["green  "]
    assert pictures[1]["captions"][0]["equal"]


def test_without_captions_there_is_no_section():
    assert captions.section(material()) is None
    alone = items(("pytorch", "a", "a red circle"))
    assert captions.section(material(caption_items=alone)) is None


def timed(variant, kind, p50_ms, tokens=None, **figures):
    provider = "torch-cpu" if variant == "pytorch" else "cpu"
    figures = {"p50_ms": p50_ms, "tokens": tokens, **figures}
    names = {"model": "m", "variant": variant, "provider": provider, "kind": kind}
    return row("latency", **names, batch_size=2, **figures)


def test_a_further_token_takes_what_a_caption_takes_beyond_its_first():
    rows = [timed("int8", "first_token", 100.0, 1.0), timed("int8", "caption", 400.0, 16.0)]
    rows.append({**timed("fp32", "caption", 400.0, 16.0), "status": "failed"})
    add_token_times(rows)
    assert rows[1]["token_ms"] == pytest.approx(20)
    assert rows[1]["tokens_per_second"] == pytest.approx(80)
    assert rows[0]["token_ms"] is rows[2]["token_ms"] is None


def test_the_recommendation_of_a_captioner_speaks_of_captions():
    speed = {"speedup_vs_pytorch": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    latency = [
        *(timed("pytorch", "first_token", 50.0), timed("pytorch", "caption", 200.0)),
        *(timed("fp32", "first_token", 25.0, **speed), timed("fp32", "caption", 100.0, **speed)),
    ]
    labels = {"model": "m", "variant": "fp32", "provider": "cpu"}
    parity = row("parity", **labels, kind="caption", passed=True, tolerance="")
    size = {"graph": "image", "size_bytes": 10**6, "folder_bytes": 10**6}
    export = row("export", model="m", variant="fp32", family="git", **size)
    scored = {"equal": 1.0, "equal_low": 0.95, "equal_high": 1.0}
    tables = build(
        {
            "export": [{"rows": [export]}],
            "parity": [{"rows": [parity]}],
            "retrieval": [],
            "latency": [{"rows": latency}],
            "captions": [{"rows": [row("captions", **labels, dataset="pages", **scored)]}],
        }
    )
    captioned = pd.DataFrame([row("captions", **labels, dataset="pages", **scored)])
    said = items(("pytorch", "a", "a red circle"), ("fp32", "a", "a red circle"))
    report = Report({**tables, "captions": captioned, "caption_items": said}, {})
    assert list(report.charts())
    page = " ".join(report.html().split())
    assert "What captions say" in page
    assert tables["summary"].query("variant == 'fp32'")["recommended"].all()
    assert "2.00 times as fast as PyTorch on captions and 2.00 times on first tokens" in page
    assert "its captions are PyTorch's in all cases." in page
    assert "Fastest within parity on captions at batch 2" in page
    assert "Captions, times PyTorch" in page
    assert "A caption" in page
