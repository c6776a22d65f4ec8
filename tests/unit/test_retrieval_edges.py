"""Edges of storing, ranking and comparing that a run meets rarely."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from colport.base.errors import ArtifactError
from colport.data.base import RetrievalDataset
from colport.scoring import quantized
from colport.scoring.controls import SHUFFLES, bm25_run, shuffled_run
from colport.scoring.forms import Form
from colport.scoring.metrics import evaluate
from colport.scoring.record import retrieval_record
from colport.scoring.score import RunScores, rank, top_k_overlap
from colport.scoring.statistics import bootstrap_interval
from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings
from tests.scores import paired_interval, paired_randomisation, score_run


def test_scores_are_compared_as_trec_eval_does():
    """As C floats: what differs beyond them ties, and the last id comes first, also at the cut."""
    for others in (1, 10):
        run = {"q": {"a": 1 + 1e-9, **{f"b{number}": 1.0 for number in range(others)}}}
        values = evaluate({"q": {"a": 1}}, run)
        assert values["map"]["q"] == pytest.approx(1 / (others + 1))
        assert values["mrr_at_10"]["q"] == (0.5 if others == 1 else 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_not_finite_is_not_stored(tmp_path, wrong):
    with pytest.raises(ArtifactError, match="Embeddings of 'b' hold NaN or infinity"):
        EmbeddingSet.from_arrays(["a", "b"], [np.ones((1, 2), "f4"), np.full((1, 2), wrong, "f4")])


def test_a_file_of_other_values_than_floats_is_refused(tmp_path):
    tensors = {"embeddings": np.ones((3, 8), np.int8), "lengths": np.array([1, 2], np.int32)}
    metadata = {"ids": json.dumps(["a", "b"]), "schema_version": "1"}
    save_file(tensors, tmp_path / "x", metadata)
    with pytest.raises(ArtifactError, match="embeddings is I8; allowed are F32, F16"):
        read_embeddings(tmp_path / "x")


def test_a_file_keeps_its_settings_and_no_more(tmp_path):
    write_embeddings(tmp_path / "x", ["a"], [np.ones((1, 2), np.float32)], {"model": "m"})
    assert read_embeddings(tmp_path / "x").metadata == {"model": "m"}
    with pytest.raises(ValueError, match=r"\['schema_version'\] are reserved"):
        write_embeddings(tmp_path / "y", ["a"], [np.ones((1, 2), "f4")], {"schema_version": "9"})


def test_a_bit_says_whether_a_value_is_positive():
    values = np.array([[0.5, 0.0, -0.5, 1e-9, -0.0, 3, -3, 1]], np.float32)
    stored, scales = quantized.encode(values, "binary")
    assert scales is None
    assert stored.tolist() == [[0b10010101]]
    one = 1 / np.sqrt(np.float32(8))
    expected = [one, -one, -one, one, -one, one, -one, one]
    np.testing.assert_allclose(quantized.decode(stored, None), [expected], rtol=1e-6)


def test_each_token_has_its_own_scale():
    values = np.array([[1, -0.5], [100, 50], [0.05, 0.025]], np.float32)
    stored, scales = quantized.encode(values, "int8")
    assert stored[:, 0].tolist() == [127] * 3
    np.testing.assert_allclose(quantized.decode(stored, scales), values, rtol=0.01)
    assert scales.shape == (3,)


@pytest.mark.parametrize(("dim", "possible"), [(8, True), (12, False), (16, True), (4, False)])
def test_which_dimensions_can_be_bits(dim, possible):
    assert (Form("b", storage="binary").limit(dim, 4) == "") == possible
    assert Form("b", storage="int8").limit(dim, 4) == ""


# Records.


def run_of(values, documents=5, rankings=None):
    per_query = {name: dict(values) for name in evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}})}
    return RunScores(documents, per_query, rankings or {query: ["a", "b"] for query in values})


OWN = {f"q{index}": value for index, value in enumerate((0.9, 0.4, 0.7, 1.0, 0.2, 0.6))}
OTHERS = {
    query: min(1.0, value + 0.1 * (index % 3)) for index, (query, value) in enumerate(OWN.items())
}
PLACE = {"model": "m", "variant": "int8", "provider": "cpu", "dataset": "pages"}


def test_settings_of_the_statistics_are_followed():
    settings = {"resamples": 99, "seed": 5, "confidence": 0.5}
    row = retrieval_record(PLACE, run_of(OWN), run_of(OTHERS), settings)["rows"][0]
    own, others = list(OWN.values()), list(OTHERS.values())
    used = {"resamples": 99, "seed": 5}
    low, high = bootstrap_interval(own, 0.5, **used)
    assert (row["ndcg_at_5_low"], row["ndcg_at_5_high"]) == (low, high)
    ends = paired_interval(own, others, 0.5, **used)
    assert (row["ndcg_at_5_delta_low"], row["ndcg_at_5_delta_high"]) == ends
    assert row["p_value"] == paired_randomisation(own, others, **used)
    default = retrieval_record(PLACE, run_of(OWN), run_of(OTHERS), {})["rows"][0]
    assert default["p_value"] == paired_randomisation(own, others)
    assert default["ndcg_at_5_low"] == bootstrap_interval(own, 0.95)[0]


def test_queries_are_paired_by_their_ids():
    shuffled = dict(reversed(OTHERS.items()))
    rows = [
        retrieval_record(PLACE, run_of(OWN), run_of(others), {"resamples": 99})["rows"]
        for others in (OTHERS, shuffled)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("changed", ["documents", "queries", "rankings"])
def test_a_reference_of_another_dataset_is_refused(changed):
    other = {
        "documents": run_of(OTHERS, documents=6),
        "queries": run_of({**OTHERS, "q9": 1.0}, rankings={query: ["a", "b"] for query in OTHERS}),
        "rankings": run_of(OTHERS, rankings={"q0": ["a"]}),
    }[changed]
    with pytest.raises(ArtifactError, match="they must be the same to be compared"):
        retrieval_record(PLACE, run_of(OWN), other, {})


def test_overlap_is_a_share_of_what_is_ranked():
    """Of three documents there are no ten."""
    rankings = {query: ["a", "b", "c"] for query in OWN}
    others = {**rankings, "q0": ["a", "x", "y"]}
    row = retrieval_record(
        PLACE, run_of(OWN, 3, rankings), run_of(OTHERS, 3, others), {"resamples": 9}
    )["rows"][0]
    assert row["top10_overlap"] == pytest.approx((5 + 1 / 3) / 6)
    scores = np.array([[3.0, 2, 1]])
    assert top_k_overlap(scores, scores, 10) == 1


def test_a_ranking_has_ten_documents():
    names = [f"d{index:02d}" for index in range(15)]
    run = rank(np.arange(15, dtype=np.float32)[None], ["q"], names, {})
    assert run.rankings["q"] == names[:4:-1]
    with pytest.raises(ArtifactError, match="Retrieval record has status 'failed', not 'ok'"):
        RunScores.from_record({"rows": [{"status": "failed"}]})


def one(name, values):
    return EmbeddingSet.from_arrays([name], [np.asarray(values, np.float32)])


def test_what_is_judged_must_be_there():
    queries, documents = one("q", [[1.0, 0]]), one("d", [[1.0, 0]])
    for qrels, missing in (
        ({"other": {"d": 1}}, "Judged query 'other' has no embeddings"),
        ({"q": {"gone": 0}}, "Judged document 'gone' has no embeddings"),
    ):
        with pytest.raises(ArtifactError, match=missing):
            score_run(queries, documents, qrels)
    assert score_run(queries, documents, {"other": {}}).documents == 1
    with pytest.raises(ArtifactError, match="A document id occurs twice"):
        score_run(queries, [documents, documents], {})
    huge = replace(documents, values=np.array([[np.inf, 0]], np.float32))
    with pytest.raises(ArtifactError, match="of document 'd' for query 'q' is inf"):
        score_run(queries, huge, {})


# Controls.

TEXTS = ["the river", "a house", "die Strasse", "la maison"]
NAMES = ["d0", "d1", "d2", "d3"]
DATASET = RetrievalDataset(
    "texts",
    ["q0", "q1"],
    ["the", "maison"],
    NAMES,
    TEXTS,
    {"q0": {"d0": 1}, "q1": {"d3": 1}},
    texts=TEXTS,
)


def test_shuffles_are_averaged_by_query():
    run = shuffled_run(DATASET, seed=3)
    hits = run.per_query["recall_at_1"]  # each is some of the shuffles
    assert all(
        value * SHUFFLES == pytest.approx(round(value * SHUFFLES)) for value in hits.values()
    )
    assert all(0 < value < 1 for value in hits.values())  # not of a single one


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "eng", "English"])
def test_stop_words_of_a_language_by_any_of_its_names(language):
    pytest.importorskip("bm25s", reason="the pipeline's requirements bring it")
    run = bm25_run(replace(DATASET, languages=[language]))
    assert run.rankings["q0"][0] == "d3"  # "the" is left out: all score 0
    assert bm25_run(replace(DATASET, languages=["fr"])).rankings["q0"][0] == "d0"
    both = bm25_run(replace(DATASET, languages=["fr", language]))
    assert both.rankings["q0"][0] == "d3"
