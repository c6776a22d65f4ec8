"""The section "What matched" of the report."""

import base64
import io
import re

import pytest
from PIL import Image

from colport.report.section import Material
from colport.report.sections import matches
from tests.unit.test_report import RUN, Page, render


def picture(colour: str) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "WEBP")
    return base64.b64encode(stream.getvalue()).decode()


def contender(variant: str, similarity: float, place: list[int] | None, change: str | None) -> dict:
    return {
        "variant": variant,
        "provider": "cpu",
        "score": 1.0 + similarity,
        "ndcg_at_5": 0.631,
        "similarities": [similarity, 1.0],
        "places": [place, [0, 0]],
        "pictures": [picture("red"), picture("blue")],
        "change": change,
    }


def record(text: str = "yellow chart", word: str = "yellow", **values) -> dict:
    figure = {
        "kind": "most damaged",
        "query": "q1",
        "text": text,
        "document": "page-7",
        "relevant": True,
        "grid": [12, 10],
        "scale": [-0.25, 0.75],
        "largest_change": 0.0123,
        "page": picture("white"),
        "tokens": [{"text": word, "role": "query"}, {"text": "<pad>", "role": "augmentation"}],
        "shown": [0],
        "undrawn": 0,
        "contenders": [
            contender("pytorch", 0.75, [3, 4], None),
            contender("int8", 0.5, [0, 9], picture("green")),
            contender("int4", 0.25, None, picture("black")),
        ],
    }
    named = {"model": "m", "dataset": "pages", "reason": "", "left_out": [], "figures": [figure]}
    return {**named, **values}


def report(*records: dict) -> Page:
    found = Page(render({}, RUN, records))
    assert found.stack == []
    assert len(found.ids) == len(set(found.ids))
    return found


def test_a_figure_shows_every_contender_with_scores_and_places():
    page = report(record())
    text = page.text
    assert "m on pages" in text
    assert "Most damaged query yellow chart" in text
    assert "Page page-7, the page judged relevant, in 12 by 10 patches." in text
    assert "Prompt and augmentation tokens make 57% of the score in PyTorch." in text
    assert "MaxSim 1.75 NDCG@5 0.631" in text
    assert "MaxSim 1.50 (\N{MINUS SIGN}0.250) NDCG@5 0.631" in text
    assert "token 1, 42.9% of the score in PyTorch" in text
    assert "0.750 row 4, column 5" in text
    assert "0.500 (\N{MINUS SIGN}0.250) row 1, column 10, moved" in text
    assert "0.250 (\N{MINUS SIGN}0.500) not on a patch, moved" in text
    assert "0.012 lower (red) to 0.012 higher (blue)" in text
    assert "2 <pad> augmentation 1.000 at 1, 1" in text
    # The page, the scale, three of all words, three of a word, two changes and their scale.
    assert page.counts["img"] == 11


def test_every_picture_is_inside_and_says_what_it_shows():
    html = render({}, RUN, [record()])
    images = re.findall(r"<img[^>]*>", html)
    assert all(re.search(r'src="data:image/(webp|png);base64,', image) for image in images)
    assert "img-src data:" in html
    assert not re.search(r"https?://|@import|url\(", html)
    described = [image for image in images if 'alt=""' not in image]
    assert len(described) == len(images) - 1  # the scale of changes, said in words beside it
    assert any(
        "similarity with the word yellow in int8: 0.500 at most, row 1, column 10" in image
        for image in described
    )


def test_texts_from_outside_are_escaped():
    evil = '<script>alert("1")</script>'
    html = render({}, RUN, [record(text=evil, word=evil, model=evil)])
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") > 5
    assert Page(html).counts["script"] == 1


def test_nothing_to_show_is_no_section():
    for records in ((), [record(figures=[])]):
        page = report(*records)
        assert "matches" not in page.ids
        assert "What matched" not in page.text


def test_what_is_left_out_says_why():
    left_out = [{"variant": "int4", "reason": "not on this machine."}]
    text = report(record(left_out=left_out)).text
    assert "int4 is left out: not on this machine." in text
    text = report(record(figures=[], reason="a known limit.")).text
    assert "There are no pictures: a known limit." in text


def test_variants_that_are_not_drawn_are_counted():
    found = record()
    found["figures"][0] |= {"undrawn": 2, "relevant": False}
    text = report(found).text
    assert "2 variants that changed less are not drawn." in text
    assert "the page PyTorch ranks first" in text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_examples_but_the_first_are_folded(count):
    records = [record(model=f"m{number}") for number in range(count)]
    html = render({}, RUN, records)
    first, *folded = html.split('<details class="fold">')
    assert first.count('<figure class="match"') == 1
    assert len(folded) == (count > 1)
    if folded:
        said = f"{count - 1} more example{'' if count == 2 else 's'}"
        assert f"<summary>{said}</summary>" in folded[0]
        assert folded[0].count('<figure class="match"') == count - 1
    assert Page(html).stack == []


@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_pictures_stay_within_their_bytes(monkeypatch, drawn):
    size = matches._bytes_of(record()["figures"][0])
    monkeypatch.setattr(matches, "_MAX_BYTES", drawn * size)
    found = matches.section(Material({}, explained=[record(), record(model="n")]))
    shown = sum(len(one["figures"]) for one in found["records"]) if found else 0
    assert shown == drawn
    assert (found is None) == (drawn == 0)
    assert found is None or found["further"] == 2 - drawn
    if drawn == 1:
        assert "1 more figure would make this page too large" in report(record(), record()).text
