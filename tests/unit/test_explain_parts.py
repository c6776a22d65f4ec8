"""Pictures and records of explained scores, value by value."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colport.base.errors import UnsupportedError
from colport.base.files import write_unsupported
from colport.data.base import RetrievalDataset
from colport.explain import record as stage
from colport.explain.explanation import Explanation, Match, most_changed
from colport.explain.picture import CHANGE, HEAT, colour_bar, colours, draw, fit, sheet
from colport.explain.selection import Chosen, choose
from colport.families.base import PatchGrid, QueryToken

GRID = PatchGrid.block(rows=2, columns=3, first=1)


def rgb(palette, step):
    return list(bytes.fromhex(palette[step]))


@pytest.mark.parametrize("palette", [HEAT, CHANGE])
def test_each_step_of_a_palette_is_its_own_colour(palette):
    for step in range(9):
        assert colours([2.0 + step], 2.0, 10.0, palette)[0].tolist() == rgb(palette, step)
    between = (np.array(rgb(palette, 0), float) + rgb(palette, 1)) / 2
    np.testing.assert_allclose(colours([2.5], 2.0, 10.0, palette)[0], between, atol=0.51)


@pytest.mark.parametrize(
    ("page", "box", "least", "size"),
    [
        ((100, 50), (40, 40), (1, 1), (40, 20)),
        ((50, 100), (40, 40), (1, 1), (20, 40)),
        ((10, 20), (40, 60), (1, 1), (30, 60)),
        ((400, 4), (40, 40), (5, 3), (40, 3)),
    ],
)
def test_a_page_fits_its_box(page, box, least, size):
    assert fit(Image.new("L", page), box, least).size == size


def test_a_page_is_dimmed_under_its_heat():
    picture = draw(
        Image.new("RGB", (30, 20), "white"), np.array([[0, 1, 2]] * 2), (0, 2), [], (30, 20)
    )
    for column, step in ((5, 0), (15, 4), (25, 8)):
        expected = 0.7 * np.array(rgb(HEAT, step)) + 0.3 * 190
        np.testing.assert_allclose(picture.getpixel((column, 10)), expected, atol=1)
    bar = np.asarray(colour_bar(CHANGE, 9))[0]
    np.testing.assert_allclose(bar[0], 0.7 * np.array(rgb(CHANGE, 0)) + 0.3 * 190, atol=1)
    np.testing.assert_allclose(bar[8], 0.7 * np.array(rgb(CHANGE, 8)) + 0.3 * 190, atol=1)


def test_an_outline_is_white_in_black():
    page = Image.new("RGB", (60, 40), "black")
    picture = draw(page, np.zeros((2, 2)), (0, 1), [(0, 1)], (60, 40))
    line = [picture.getpixel((column, 10)) for column in (27, 28, 29, 30)]
    inside = picture.getpixel((45, 10))
    assert line[1:3] == [(255, 255, 255), (0, 0, 0)]
    assert line[0] == line[3] == inside


def test_pictures_of_a_sheet_lie_in_rows_and_columns():
    shades = [(level, 0, 0) for level in (50, 100, 150)]
    one, two, three = (Image.new("RGB", (60, 30), shade) for shade in shades)
    paper = sheet([("x", [("a", one), ("b", two)]), ("y", [("c", three)])], (-0.5, 1.25))
    assert paper.size == (2 * (200 + 12) + 12, 2 * (30 + 2 * 24 + 12) + 2 * 24)
    places = []
    for shade in shades:
        rows, columns = np.nonzero((np.asarray(paper) == shade).all(axis=2))
        places.append((int(columns.min()), int(rows.min())))
    assert places == [(12, 36), (12 + 212, 36), (12, 36 + 90)]


def match(*rows, own=(True, True, False)):
    similarities = np.array(rows, np.float32)
    return Match(similarities, GRID, np.array(own[: len(rows)]))


FIRST = match([0, 1, 2, 3, 4, 5, 6, 0], [9, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 8, 0])
OTHER = match([0, 1, 2, 3, 4, 5, 4, 0], [1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0])


def test_what_changed_most_is_that_of_any_variant():
    near = match([0, 1, 2, 3, 4, 5, 5, 0], [9, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 8, 0])
    assert most_changed(FIRST, [near, OTHER], 1) == [1]
    assert most_changed(FIRST, [near], 1) == [0]
    assert most_changed(FIRST, [OTHER], 5) == [1, 0]


def test_the_words_shown_are_those_of_the_first_or_changed_in_any(monkeypatch):
    strong = match([0, 1, 2, 3, 4, 5, 6, 0], [9, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 8, 0])
    near = match([0, 1, 2, 3, 4, 5, 5, 0], [9, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 8, 0])
    matches = {"one": strong, "near": near, "far": OTHER}
    monkeypatch.setattr(Match, "of", lambda match, *further: match)
    monkeypatch.setattr("colport.explain.explanation._WORDS", 1)
    runtime = SimpleNamespace(query_tokens=lambda query: [], patches=lambda page: GRID)
    pairs = {name: (found,) for name, found in matches.items()}
    near_alone = {name: pairs[name] for name in ("one", "near")}
    for given, changed, shown in ((pairs, False, [0]), (pairs, True, [1]), (near_alone, True, [0])):
        assert Explanation.of(runtime, "q", None, given, changed=changed).shown == shown


def test_a_change_is_from_the_first_to_another():
    page = Image.new("RGB", (30, 20), "white")
    tokens = [QueryToken(text, "query") for text in "abc"]
    explanation = Explanation(page, tokens, {"one": FIRST, "other": OTHER}, [2])
    assert explanation.scale == (0.0, 8.0)
    assert explanation.largest_change == pytest.approx(1.0)
    np.testing.assert_allclose(explanation._change(OTHER), [[0, 0, 0], [0, 0, -1]])
    lost = explanation.change("other", (30, 20)).getpixel((25, 15))
    np.testing.assert_allclose(lost, 0.7 * np.array(rgb(CHANGE, 0)) + 0.3 * 190, atol=1)
    same = explanation.change("one", (30, 20)).getpixel((25, 15))
    np.testing.assert_allclose(same, 0.7 * np.array(rgb(CHANGE, 4)) + 0.3 * 190, atol=1)
    assert len(explanation.pictures("one", (30, 20))) == 2


def retrieval(quality, rankings):
    return {"per_query": {"ndcg_at_5": quality}, "rankings": rankings}


def test_a_page_is_the_most_relevant_then_the_best_ranked():
    record = retrieval({"a": 1.0, "b": 0.5}, {"a": ["x", "y", "z"], "b": ["z", "y", "x"]})
    reference = SimpleNamespace(record=record, mean_similarity=lambda query, page: 0.0)
    qrels = {"a": {"z": 1, "y": 1, "x": 0, "absent": 1}, "b": {"x": 2, "y": 1}}
    chosen = choose(reference, [], qrels)
    assert chosen == [Chosen("best", "a", "y", True), Chosen("median", "b", "x", True)]
    unjudged = choose(reference, [], {"a": {"x": 0}})
    assert [(one.document, one.relevant) for one in unjudged] == [("x", False), ("z", False)]


def test_only_so_many_variants_are_drawn_and_those_that_changed_most(monkeypatch):
    class Contender:
        provider = "cpu"

        def __init__(self, variant, similarity):
            self.variant, self.similarity = variant, similarity
            self.record = retrieval({"q": similarity}, {})

        def mean_similarity(self, query, document):
            assert (query, document) == ("q", "d")
            return self.similarity

        def embeddings(self, query, document):
            return self.variant

    asked = {}

    def of(runtime, text, page, embeddings, changed, stop_words):
        asked.update(text=text, page=page, embeddings=embeddings, changed=changed)
        assert "the" in stop_words  # of English, where a dataset names no language
        matches = dict.fromkeys(embeddings, FIRST)
        tokens = [QueryToken("a", "query")]
        blank = Image.new("RGB", (3, 2))
        return SimpleNamespace(
            **{"matches": matches, "tokens": tokens, "shown": [0], "scale": (0.0, 8.0)},
            **{"largest_change": 0.5, "pictures": lambda name, box: [blank]},
            change=lambda name, box: blank,
        )

    monkeypatch.setattr(stage.Explanation, "of", of)
    monkeypatch.setattr(stage, "_MAX_VARIANTS", 2)
    page = Image.new("RGB", (3, 2))
    names = (["p", "q"], ["other?", "text?"], ["c", "d"], [Image.new("RGB", (9, 9)), page])
    dataset = RetrievalDataset("pages", *names, {})
    reference = Contender("pytorch", 0.5)
    variants = [Contender(*one) for one in (("a", 0.4), ("b", 0.5), ("c", 0.9), ("d", 0.51))]
    found = stage._figure(
        Chosen("most damaged", "q", "d", True), dataset, None, reference, variants
    )
    assert (asked["text"], asked["page"], asked["changed"]) == ("text?", page, True)
    assert list(asked["embeddings"]) == ["pytorch", "a", "c"]
    assert (found["undrawn"], found["grid"], found["scale"]) == (2, [2, 3], (0.0, 8.0))
    figures = [(one["variant"], one["ndcg_at_5"]) for one in found["contenders"]]
    assert figures == [("pytorch", 0.5), ("a", 0.4), ("c", 0.9)]
    first, second, _ = found["contenders"]
    assert first["score"] == 6 + 9 + 8
    assert first["similarities"] == [6.0, 9.0, 8.0]
    assert first["places"] == [(1, 2)]
    assert (first["change"], second["change"] is None) == (None, False)
    best = Chosen("best", "q", "d", True)
    stage._figure(best, dataset, None, reference, variants)
    assert asked["changed"] is False
    stage._figure(Chosen("most damaged", "q", "d", True), dataset, None, reference, [])
    assert asked["changed"] is False


def test_the_first_folder_that_can_be_read_and_the_last_reason(monkeypatch, tmp_path):
    for name in ("a", "b"):
        write_unsupported(tmp_path / name, f"limit of {name}.")
    with pytest.raises(UnsupportedError, match=r"limit of b\."):
        stage._first_runtime([tmp_path / "a", tmp_path / "b"])

    def preprocessing(folder):
        if folder == "a":
            raise UnsupportedError("a limit")
        return SimpleNamespace(folder=folder, query_tokens=lambda query: [])

    monkeypatch.setattr(stage, "preprocessing", preprocessing)
    assert stage._first_runtime(["a", "b", "c"]).folder == "b"


def test_a_variant_is_that_of_its_first_provider_with_results(monkeypatch):
    def contender(source):
        if source.embeddings == "none":
            raise UnsupportedError(f"reason of {source.record}")
        return source.record

    monkeypatch.setattr(stage, "_Contender", contender)
    places = [
        *(("int8", "none", 1), ("int8", "cpu", 2), ("int8", "cuda", 3)),
        *(("fp32", "none", 4), ("fp32", "none", 5)),
    ]
    sources = [stage.Results(variant, on, number) for variant, on, number in places]
    assert stage._with_results(sources) == ([2], {"fp32": "reason of 4"})
