"""Texts from outside in tables, report and model card: shown as they are, never as code."""

import csv
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from colport import tables
from colport.folder.manifest import GraphInfo, Manifest
from colport.report import model_card
from tests.unit.test_report import render

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><svg onload=alert(1)>",
    "[x](javascript:alert(1))",
    "| a | b |\n\n# heading",
    "{{ 7 * 7 }}{% raw %}",
    "${7*7} `code` &amp; \u202e \x07",
)
FORMULAS = ("=cmd|' /C calc'!A0", "+1", "-1+cmd()", "@SUM(1)", "\t=1", "=1\r+1")


def parity(**cells):
    row = dict.fromkeys(tables.COLUMNS["parity"])
    row |= {"model": "m", "variant": "fp32", "provider": "cpu", "kind": "query"}
    return {"rows": [row | {"status": "unsupported", "reason": "", "tolerance": ""} | cells]}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_in_a_table_is_no_formula(text, tmp_path):
    made = {"parity": tables.flatten("parity", [parity(reason=text, mean_cosine=-0.5)])}
    tables.write_tables(made, tmp_path)
    with (tmp_path / "parity.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["reason"] == f"'{text}".replace("\r", " ")
    assert row["mean_cosine"] == "-0.5"  # a number stays one


def test_a_lone_dash_stays_one(tmp_path):
    tables.write_tables({"parity": tables.flatten("parity", [parity(model="-")])}, tmp_path)
    with (tmp_path / "parity.csv").open(newline="") as stream:
        assert [row["model"] for row in csv.DictReader(stream)] == ["-"]


class Tags(HTMLParser):
    """Opening tags of a page, with their attributes, and what its scripts hold."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_report_escapes_every_cell(text):
    cells = {"model": text, "variant": text, "reason": text, "provider": text}
    page = render({"parity": tables.flatten("parity", [parity(**cells)])}, {"title": text})
    tags, empty = Tags(page), Tags(render({}, {}))
    attributes = [(name, value or "") for _, found in tags.found for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [value for name, value in attributes if name in ("href", "src") and ":" in value]
    assert "img" not in [tag for tag, _ in tags.found]
    code = [found for tag, found in tags.found if tag == "script" and "type" not in found]
    assert code == [found for tag, found in empty.found if tag == "script" and "type" not in found]
    policies = [found for tag, found in tags.found if found.get("http-equiv")]
    assert policies[0]["http-equiv"] == "Content-Security-Policy"
    assert "unsafe" not in policies[0]["content"]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_model_card_escapes_what_a_folder_says(text):
    tensors = {text: {"dtype": text, "shape": [text]}}
    found = Manifest(
        family="colbert",
        precision=text,
        opset=23,
        dim=8,
        source={"source": text, "weights": {text: text}, "license": {"license": text}},
        processing={},
        graphs={"text": GraphInfo(text, tensors, tensors, 1, 1)},
        external_data={},
        quantization={"settings": {"exclude": [text]}},
        made_with={text: text},
        files={text: {"sha256": text, "size_bytes": 1}},
    )
    card = model_card.write(found, "me/it", model_card.Measured(parity=[]))
    body = re.sub(r"`[^`\n]*`", "", card.split("---\n", 2)[2])  # Markdown shows code as it is
    assert "<" not in body
    assert "](javascript:" not in body
    assert "\n# heading" not in body
    assert body.count("\n# ") == 1
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in body.splitlines()]
    for before, count in pairwise(bars):  # every row of a table has its header's cells
        assert not (before and count) or before == count, body
