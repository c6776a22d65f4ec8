"""Scores taken apart: matches, patches on the page, chosen queries, pictures and the record."""

import io
import re
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.files import write_json, write_unsupported
from colport.data.base import RetrievalDataset
from colport.data.stop_words import stop_words
from colport.explain import record as stage
from colport.explain.explanation import Explanation, Match, most_changed, preprocessing, strongest
from colport.explain.picture import CHANGE, colour_bar, colours, draw, sheet, webp
from colport.explain.selection import choose
from colport.families.base import PatchGrid, QueryToken
from colport.runtime.encoder import Encoder
from colport.scoring.store import EmbeddingSet

PAGES = ("colpali", "colqwen2")
SIZES = {"portrait": (252, 336), "landscape": (336, 252), "tiny": (3, 2), "extreme": (1900, 12)}
QUERIES = ("a yellow chart", "", "Größe 図表 <pad>", "two  blanks\nand a line")


def page_of(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("family", PAGES)
def test_patches_are_the_image_tokens_of_the_embedding(exported, family, size):
    encoder, runtime, page = (
        Encoder(exported[family]),
        preprocessing(exported[family]),
        page_of(size),
    )
    ids = encoder.prepare_documents([page]).feeds["input_ids"][0]
    grid = runtime.patches(page)
    image_token = ids[grid.places[0, 0]]
    np.testing.assert_array_equal(np.flatnonzero(ids == image_token), grid.places.ravel())
    assert len(encoder.encode_documents([page])[0]) == len(ids)
    assert (grid.columns > grid.rows) == (family == "colqwen2" and size[0] > size[1])


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (5, 1)])
@pytest.mark.parametrize("family", PAGES)
def test_a_patch_lies_where_the_grid_says(exported, family, place):
    size = {"colpali": (168, 168), "colqwen2": (112, 168)}[family]  # kept by its preprocessing
    runtime, blank = preprocessing(exported[family]), Image.new("RGB", size, "white")
    grid = runtime.patches(blank)
    painted = blank.copy()
    painted.paste("black", tuple(round(edge) for edge in grid.region(*place, *size)))
    before, after = (
        runtime.document_batch([page]).feeds["pixel_values"] for page in (blank, painted)
    )
    if family == "colpali":
        rows, columns = np.nonzero((before != after)[0, 0])
        step = size[0] // grid.columns
        assert {
            (row // step, column // step) for row, column in zip(rows, columns, strict=True)
        } == {place}
        assert len(rows) == step**2
    else:
        changed = np.flatnonzero((before != after).any(axis=1))
        merged = len(before) // (grid.rows * grid.columns)
        assert len(changed) == merged
        assert {divmod(int(patch) // merged, grid.columns) for patch in changed} == {place}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("family", PAGES)
def test_query_tokens_are_those_of_the_embedding(exported, family, query):
    tokens = preprocessing(exported[family]).query_tokens(query)
    assert len(tokens) == len(Encoder(exported[family]).encode_queries([query])[0])
    roles = [token.role for token in tokens]
    assert roles.count("augmentation") == 10
    assert len({token.text for token in tokens if token.role == "augmentation"}) == 1
    own = "".join(token.text for token in tokens if token.role == "query")
    # A letter of several bytes may be several tokens.
    assert set("".join(query.split())) == set(own)
    assert roles[:-1] == sorted(roles[:-1], key=["prompt", "query", "augmentation"].index)


def test_passages_have_no_patches(exported):
    runtime = preprocessing(exported["colbert"])
    for ask in (runtime.patches, runtime.query_tokens):
        with pytest.raises(UnsupportedError, match="a passage has no patches"):
            ask("a passage")


def tokens(*texts: str) -> list[QueryToken]:
    return [QueryToken(text, "augmentation" if text == "+" else "query") for text in texts]


GRID = PatchGrid.block(rows=2, columns=3, first=1)
PAGE = np.eye(8, dtype=np.float32)  # token 0 and token 7 are no patches


def test_a_known_patch_is_found_and_lies_in_its_region():
    query = np.stack([0.9 * PAGE[5] + 0.1 * PAGE[0], PAGE[7], 0.5 * PAGE[1]])
    match = Match.of(query, PAGE, tokens("a", "b", "+"), GRID)
    assert [match.place(token) for token in range(3)] == [(1, 1), None, (0, 0)]
    np.testing.assert_allclose(match.strengths, [0.9, 1.0, 0.5])
    assert match.score == pytest.approx(2.4)
    assert match.heats.shape == (3, 2, 3)
    assert match.heats[0, 1, 1] == pytest.approx(0.9)
    np.testing.assert_allclose(match.mean_heat, [[0, 0, 0], [0, 0.45, 0]])  # of a and b alone
    assert GRID.region(1, 1, 300, 100) == (100, 50, 200, 100)


def test_embeddings_of_another_page_are_refused():
    with pytest.raises(ArtifactError, match="Embeddings of 1 query and 5 page tokens"):
        Match.of(PAGE[:1], PAGE[:5], tokens("a"), GRID)
    with pytest.raises(ArtifactError, match="makes 2 of the query"):
        Match.of(PAGE[:1], PAGE, tokens("a", "b"), GRID)


def test_words_are_chosen_among_the_query_s_own():
    words = tokens("a", "b", "c", "+")
    first = Match.of(PAGE[:4] * [[0.95], [0.9], [0.8], [1.0]], PAGE, words, GRID)
    other = Match.of(PAGE[:4] * [[0.2], [0.9], [0.7], [0.1]], PAGE, words, GRID)
    assert strongest(first, 2) == [1, 2]
    assert strongest(first, 9) == [1, 2, 0]  # a matched no patch
    assert most_changed(first, [first, other], 2) == [0, 2]
    marks = Match.of(PAGE[1:4], PAGE, tokens("?", "b", "+"), GRID)
    assert strongest(marks, 3) == [1]
    only_added = Match.of(PAGE[:1], PAGE, tokens("+"), GRID)
    assert strongest(only_added, 4) == [0]


def test_stop_words_are_left_out_by_their_whole_word():
    words = [QueryToken("in", "query", word) for word in ("in", "mountain", "IN")]
    match = Match.of(PAGE[1:4], PAGE, words, GRID, {"in"})
    assert match.own.tolist() == [False, True, False]
    assert strongest(match, 3) == [1]
    alone = Match.of(PAGE[1:4:2], PAGE, words[::2], GRID, {"in"})
    assert alone.own.tolist() == [True, True]  # a query of stop words alone keeps them


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
def test_a_token_knows_its_whole_word(exported, family):
    query = "Is there a mountain, and what's l'analyse?"
    own = [
        token
        for token in preprocessing(exported[family]).query_tokens(query)
        if token.role == "query" and any(map(str.isalnum, token.text))
    ]
    known = set(re.findall(r"\w+", query))
    assert {token.word for token in own} == known
    assert all(token.text in token.word for token in own)


def test_the_stop_words_are_those_of_the_language():
    english = stop_words(["english"], longest=True)
    assert {"i", "has", "which", "need"} & english == {"i", "has", "which"}
    assert stop_words(["eng"]) < english
    assert "welche" in stop_words(["deu"])
    assert stop_words(["tlh"]) == stop_words([]) == set()


def scored(
    quality: dict[str, float],
    rankings: dict[str, list[str]] | None = None,
    scores: dict[str, float] | None = None,
) -> SimpleNamespace:
    rankings = rankings or {query: ["top"] for query in quality}
    record = {"per_query": {"ndcg_at_5": quality}, "rankings": rankings}
    return SimpleNamespace(
        record=record, mean_similarity=lambda query, page: (scores or {}).get(query, 0.5)
    )


def test_best_median_and_most_damaged_by_ndcg():
    reference = scored({"a": 1.0, "b": 0.9, "c": 0.6, "d": 0.5, "e": 0.1})
    variants = [
        scored({"a": 1.0, "b": 0.9, "c": 0.6, "d": 0.5, "e": 0.1}),
        scored({"a": 0.9, "b": 0.2, "c": 0.6, "d": 0.6, "e": 0.1}),
    ]
    qrels = {query: {"low": 1, query.upper(): 2, "wrong": 0} for query in "abcde"}
    chosen = choose(reference, variants, qrels)
    assert [(one.kind, one.query, one.document, one.relevant) for one in chosen] == [
        ("best", "a", "A", True),
        ("median", "d", "D", True),  # of c, d and e, as b is the most damaged
        ("most damaged", "b", "B", True),
    ]


def test_ties_go_by_maxsim_and_a_query_is_taken_once():
    quality = {"a": 1.0, "b": 1.0, "c": 1.0}
    reference = scored(quality, scores={"a": 0.5, "b": 0.8, "c": 0.9})
    # Relative to its score, a loses most.
    variant = scored(quality, scores={"a": 0.4, "b": 0.8, "c": 0.78})
    chosen = choose(reference, [variant], {})
    assert [(one.query, one.document, one.relevant) for one in chosen] == [
        ("c", "top", False),
        ("b", "top", False),
        ("a", "top", False),
    ]


def test_without_judgements_or_variants():
    reference = scored({}, {"a": ["x", "y"], "b": ["y", "x"]}, {"a": 0.1, "b": 0.7})
    chosen = choose(reference, [], {})
    assert [(one.kind, one.query, one.document) for one in chosen] == [
        ("best", "b", "y"),
        ("median", "a", "x"),
    ]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_hottest_pixels_lie_in_the_matched_patch(size):
    heat = np.zeros((4, 5))
    heat[2, 3] = 1.0
    picture = draw(Image.new("RGB", size, "white"), heat, (0, 1), [], (224, 300))
    assert picture.width >= 5
    assert picture.height >= 4
    light = np.asarray(picture).astype(int).sum(axis=2)
    rows, columns = np.nonzero(light == light.max())
    left, top, right, bottom = PatchGrid.block(4, 5, 0).region(2, 3, *picture.size)
    assert columns.min() >= left - 1
    assert columns.max() <= right
    assert rows.min() >= top - 1
    assert rows.max() <= bottom
    assert picture.width <= 224
    assert picture.height <= 300


def test_an_outline_stays_on_the_page():
    heat = np.zeros((2, 2))
    plain, outlined = (
        np.asarray(draw(Image.new("RGB", (40, 40), "white"), heat, (0, 1), marked, (40, 40)))
        for marked in ([], [(1, 1)])
    )
    rows, columns = np.nonzero((plain != outlined).any(axis=2))
    assert (rows.min(), columns.min()) == (18, 18)
    assert (rows.max(), columns.max()) == (39, 39)


def test_colours_grow_lighter_evenly_and_clip():
    ramp = colours(np.linspace(0, 1, 50), 0, 1).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(ramp) > 0).all()
    np.testing.assert_array_equal(colours([-1, 2], 0, 1), colours([0, 1], 0, 1))
    np.testing.assert_array_equal(colours([0.3], 0.3, 0.3), colours([0], 0, 1))
    loss, none, gain = colours([-1, 0, 1], -1, 1, CHANGE).astype(int)
    assert loss[0] > loss[2]
    assert gain[2] > gain[0]
    assert np.ptp(none) == 0
    assert colour_bar().size == (256, 1)


def test_a_sheet_holds_every_picture():
    picture = Image.new("RGB", (60, 30), "#123456")
    paper = sheet([("one", [("a", picture), ("b", picture)]), ("two", [("c", picture)])], (0, 1))
    same = (np.asarray(paper) == (0x12, 0x34, 0x56)).all(axis=2)
    assert same.sum() == 3 * 60 * 30


@pytest.fixture(scope="module")
def explained(exported, tmp_path_factory):
    """Records, embeddings and pages of a model with a variant that loses one query's match."""
    encoder = Encoder(exported["colpali"])
    names, texts = ["q0", "q1", "q2", "q3"], ["red chart", "<script>x</script>", "a table", "blue"]
    pages = [page_of((120, 160 + 8 * index)) for index in range(4)]
    ids = [f"p{index}" for index in range(4)]
    dataset = RetrievalDataset(
        "pages", names, texts, ids, pages, {name: {ids[i]: 1} for i, name in enumerate(names)}
    )
    documents = encoder.encode_documents(pages)
    runtime = preprocessing(exported["colpali"])
    queries = [  # tokens of their own page, so that each matches one of its patches fully
        tokens[: len(runtime.query_tokens(text))]
        for tokens, text in zip(documents, texts, strict=True)
    ]
    worse = [*queries[:2], 0.4 * queries[2], queries[3]]
    stored = {
        "reference": (EmbeddingSet.from_arrays(names, queries), documents),
        "same": (EmbeddingSet.from_arrays(names, queries), documents),
        "worse": (EmbeddingSet.from_arrays(names, worse), documents),
    }
    folder = tmp_path_factory.mktemp("records")
    return dataset, stored, folder


@pytest.mark.parametrize("shards", [1, 2])
def test_the_record_shows_pytorch_beside_each_variant(exported, explained, monkeypatch, shards):
    dataset, stored, folder = explained

    def queries_of(place):
        if str(place) == "absent":
            raise UnsupportedError("no such provider here.")
        return stored[str(place)][0]

    def documents_of(place):
        sets = np.array_split(np.arange(4), shards)
        parts = [
            EmbeddingSet.from_arrays(
                [f"p{row}" for row in rows], [stored[str(place)][1][row] for row in rows]
            )
            for rows in sets
        ]
        return parts

    monkeypatch.setattr(stage, "read_queries", queries_of)
    monkeypatch.setattr(stage, "read_documents", documents_of)
    quality = dict.fromkeys(dataset.query_ids, 1.0)
    for name in stored:
        payload = scored(quality, dict.fromkeys(quality, dataset.document_ids)).record
        write_json(folder / f"{name}.json", {"rows": [{"provider": f"on-{name}"}], **payload})

    def source(variant: str, place: str) -> stage.Results:
        return stage.Results(variant, Path(place), folder / f"{place}.json")

    record = stage.explain_record(
        "m",
        dataset,
        [exported["colpali"]],
        source("pytorch", "reference"),
        [
            source("fp32", "absent"),
            source("fp32", "same"),
            source("int8", "worse"),
            source("int4", "absent"),
        ],
    )
    assert record["left_out"] == [{"variant": "int4", "reason": "no such provider here."}]
    assert [figure["kind"] for figure in record["figures"]] == ["best", "median", "most damaged"]
    damaged = record["figures"][-1]
    assert (damaged["query"], damaged["text"], damaged["document"]) == ("q2", "a table", "p2")
    assert damaged["grid"] == [12, 12]
    pytorch, fp32, int8 = damaged["contenders"]
    assert [one["variant"] for one in damaged["contenders"]] == ["pytorch", "fp32", "int8"]
    assert (pytorch["provider"], fp32["provider"]) == ("on-reference", "on-same")
    assert pytorch["score"] == pytest.approx(fp32["score"])
    assert int8["score"] < pytorch["score"]
    assert pytorch["score"] == pytest.approx(sum(pytorch["similarities"]), abs=0.01)
    assert pytorch["change"] is None
    assert damaged["largest_change"] > 0.01
    for contender in damaged["contenders"]:
        assert len(contender["pictures"]) == 1 + len(damaged["shown"])
        for picture in contender["pictures"]:
            assert Image.open(io.BytesIO(b64decode(picture))).format == "WEBP"
    assert pytorch["pictures"] == fp32["pictures"]
    assert pytorch["pictures"] != int8["pictures"]


def test_a_model_without_a_usable_folder_says_why(exported, explained):
    dataset, _, folder = explained
    source = stage.Results("pytorch", folder, folder / "none.json")
    write_unsupported(folder / "model", "too new an operator.")
    record = stage.explain_record("m", dataset, [folder / "model"], source, [])
    assert (record["figures"], record["reason"]) == ([], "too new an operator.")


def test_the_mean_similarity_is_over_words(monkeypatch):
    """Each of three words with its best of two patches: 1, 0.5 and 0.25."""
    words = np.array([[1, 0], [0.5, 0.5], [-1, 0.25]], np.float32)
    found = words, np.eye(2, dtype=np.float32)
    monkeypatch.setattr(stage._Contender, "embeddings", lambda *_: found)
    contender = object.__new__(stage._Contender)
    assert contender.mean_similarity("q", "d") == pytest.approx(1.75 / 3)


def test_embeddings_are_found_by_id_in_their_shard():
    first = EmbeddingSet.from_arrays(["a", "b"], [PAGE, PAGE])
    second = EmbeddingSet.from_arrays(["c"], [PAGE])
    found = stage.by_id([first, second])
    assert (found["b"], found["c"]) == ((first, 1), (second, 0))


def test_one_scale_for_all_and_changes_apart(exported):
    runtime, page = preprocessing(exported["colpali"]), page_of((120, 160))
    encoder = Encoder(exported["colpali"])
    query, document = encoder.encode_queries(["red"])[0], encoder.encode_documents([page])[0]
    found = {"one": (query, document), "other": (0.5 * query, document)}
    explanation = Explanation.of(runtime, "red", page, found)
    one = explanation.matches["one"]
    low, high = explanation.scale
    assert low == pytest.approx(min(one.mean_heat.min(), one.heats[explanation.shown].min()))
    assert high == pytest.approx(max(one.mean_heat.max(), one.heats[explanation.shown].max()))
    assert explanation.largest_change == pytest.approx(np.abs(one.mean_heat).max() / 2)
    assert webp(explanation.change("other", (64, 64))) != webp(explanation.change("one", (64, 64)))
    same = Explanation.of(runtime, "red", page, {"one": (query, document)})
    assert same.largest_change == pytest.approx(0.001)
