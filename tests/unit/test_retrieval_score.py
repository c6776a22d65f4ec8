from __future__ import annotations

import csv
import io
import json
import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval

from colport.base.columns import TABLES
from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.files import read_json, write_json
from colport.scoring.maxsim import maxsim
from colport.scoring.metrics import METRIC_NAMES, METRICS, evaluate
from colport.scoring.record import retrieval_record, unsupported_record
from colport.scoring.score import RunScores, rank, top_k_overlap
from colport.scoring.statistics import bootstrap_interval
from colport.scoring.store import EmbeddingSet
from tests.scores import paired_interval, paired_randomisation, score_run

AXES = np.eye(4, dtype=np.float32)
DESIGN_COLUMNS = (
    "model, variant, provider, dataset, queries, documents, ndcg_at_1, ndcg_at_5, ndcg_at_10, "
    "recall_at_1, recall_at_5, recall_at_10, mrr_at_10, map, ndcg_at_5_low, ndcg_at_5_high, "
    "ndcg_at_5_delta, p_value, status, reason"
)


def embeddings(**items: np.ndarray) -> EmbeddingSet:
    return EmbeddingSet.from_arrays(list(items), list(items.values()))


QUERIES = embeddings(q0=AXES[:1], q1=AXES[1:3], unjudged=AXES[3:])
DOCUMENTS = embeddings(
    d0=AXES[:1],
    d1=AXES[1:3],
    d2=AXES[1:2],
    d3=AXES[3:],
)
WORSE = embeddings(d0=AXES[1:2], d1=AXES[1:3], d2=AXES[1:2], d3=AXES[:1])
QRELS = {"q0": {"d0": 1}, "q1": {"d2": 1}}


@pytest.fixture(name="run")
def fixture_run() -> RunScores:
    return score_run(QUERIES, DOCUMENTS, QRELS)


def test_scores_and_rankings(run):
    assert run.documents == 4
    assert run.rankings == {
        "q0": ["d0", "d3", "d2", "d1"],
        "q1": ["d1", "d2", "d3", "d0"],
        "unjudged": ["d3", "d2", "d1", "d0"],
    }
    assert run.per_query["ndcg_at_1"] == {"q0": 1.0, "q1": 0.0}
    assert run.per_query["mrr_at_10"] == {"q0": 1.0, "q1": 0.5}


def test_shards_give_the_same_run(run):
    shards = [
        embeddings(d3=DOCUMENTS[3], d1=DOCUMENTS[1]),
        embeddings(d0=DOCUMENTS[0], d2=DOCUMENTS[2]),
    ]
    assert score_run(QUERIES, shards, QRELS, max_bytes=64) == run


class Opened(Sequence):
    """Shards that are made when they are indexed; remembers how many lived at once."""

    def __init__(self, documents: list[EmbeddingSet]) -> None:
        self.documents, self.alive, self.most = documents, weakref.WeakSet(), 0

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> EmbeddingSet:
        shard = replace(self.documents[index])
        self.alive.add(shard)
        self.most = max(self.most, len(self.alive))
        return shard


@pytest.mark.parametrize("size", [1, 7, 400, 3000])
def test_any_cut_gives_the_scores_of_the_whole_matrix(size):
    """More documents than the metrics see, in few distinct values: ties cross shards."""
    rng = np.random.default_rng(0)
    names = [f"d{index}" for index in rng.permutation(1300)]
    items = [AXES[rng.integers(0, 4, rng.integers(1, 4))] for _ in names]
    qrels = {
        query: {str(name): 1 for name in rng.choice(names, 5, replace=False)}
        for query in QUERIES.ids[:2]
    }
    matrix = maxsim(QUERIES, items)
    assert len(np.unique(matrix)) < 5
    cuts = [(names[i : i + size], items[i : i + size]) for i in range(0, len(names), size)]
    shards = Opened([EmbeddingSet.from_arrays(*cut) for cut in cuts])
    found = score_run(QUERIES, shards, qrels)
    full = {
        query: sorted(zip(row.tolist(), names, strict=True), reverse=True)[:1000]
        for query, row in zip(QUERIES.ids, matrix, strict=True)
    }
    expected = evaluate(
        qrels, {query: {name: score for score, name in full[query]} for query in qrels}
    )
    assert found.per_query == expected
    assert found.rankings == {q: [name for _, name in best[:10]] for q, best in full.items()}
    assert found.documents == 1300
    assert shards.most <= 2  # the one that is left, and the next


@pytest.mark.parametrize(
    ("documents", "qrels", "message"),
    [
        (DOCUMENTS, {"q9": {"d0": 1}}, "Judged query 'q9' has no embeddings"),
        (DOCUMENTS, {"q0": {"d9": 1}}, "Judged document 'd9' has no embeddings"),
        ([DOCUMENTS, DOCUMENTS], QRELS, "occurs twice"),
        (
            replace(DOCUMENTS, values=DOCUMENTS.values * np.float32(np.nan)),
            QRELS,
            "document 'd0' for query 'q0' is nan",
        ),
    ],
)
def test_incomplete_embeddings(documents, qrels, message):
    with pytest.raises(ArtifactError, match=message):
        score_run(QUERIES, documents, qrels)


def place(variant, provider, dataset="pages"):
    return {"model": "demo", "variant": variant, "provider": provider, "dataset": dataset}


def test_record_of_the_reference(run):
    record = retrieval_record(place("pytorch", "torch-cpu"), run, None, {"seed": 3})
    (row,) = record["rows"]
    assert tuple(row) == TABLES["retrieval"].all
    assert (row["embeddings"], row["bytes_per_document"]) == ("full", 16 * 5 / 4)
    assert tuple(DESIGN_COLUMNS.split(", ")) == TABLES["retrieval"].columns
    assert (row["model"], row["variant"], row["provider"]) == ("demo", "pytorch", "torch-cpu")
    assert (row["queries"], row["documents"]) == (2, 4)
    assert row["ndcg_at_5_delta"] == 0.0
    assert row["p_value"] is None
    assert row["ndcg_at_5_low"] <= row["ndcg_at_5"] <= row["ndcg_at_5_high"]
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["top10_overlap"] == 1
    assert record["per_query"]["ndcg_at_5"].keys() == {"q0", "q1"}
    assert record["settings"]["seed"] == 3
    assert record["settings"]["resamples"] == 2000
    assert record["environment"]["packages"]["numpy"] == np.__version__


def test_every_metric_has_its_interval_and_its_test(run):
    worse = score_run(QUERIES, WORSE, QRELS)
    record = retrieval_record(place("int8", "cpu"), worse, run, {"resamples": 200})
    (row,) = record["rows"]
    assert record["statistics"].keys() == set(METRIC_NAMES)
    for name, found in record["statistics"].items():
        values, others = (list(scores.per_query[name].values()) for scores in (worse, run))
        assert found["mean"] == row[name] == pytest.approx(np.mean(values))
        assert (found["low"], found["high"]) == bootstrap_interval(values, resamples=200)
        assert found["delta"] == pytest.approx(np.mean(values) - np.mean(others))
        assert found["p_value"] == paired_randomisation(values, others, resamples=200)
    headline = record["statistics"]["ndcg_at_5"]
    assert [row[f"ndcg_at_5_{key}"] for key in ("low", "high", "delta")] == [
        headline[key] for key in ("low", "high", "delta")
    ]
    assert row["p_value"] == headline["p_value"]


def test_rankings_are_compared_where_nothing_is_judged():
    names = [f"d{index:02d}" for index in range(12)]
    scores = np.arange(12, dtype=np.float32)
    reference = rank(scores[None], ["q"], names, {})
    assert reference.rankings == {"q": names[:1:-1]}
    run = rank(-scores[None], ["q"], names, {})
    record = retrieval_record(place("int8", "cpu", "own"), run, reference, {})
    (row,) = record["rows"]
    assert (row["status"], row["reason"]) == ("ok", "no judgements")
    assert (row["queries"], row["documents"]) == (1, 12)
    assert row["top10_overlap"] == pytest.approx(8 / 10)
    assert {row[name] for name in (*METRIC_NAMES, "ndcg_at_5_low", "ndcg_at_5_delta")} == {None}
    assert RunScores.from_record(json.loads(json.dumps(record))).rankings == {"q": names[:10]}


def test_record_of_a_variant_is_compared_with_the_stored_reference(run, tmp_path):
    path = tmp_path / "reference.json"
    write_json(path, retrieval_record(place("pytorch", "torch-cpu"), run, None, {}))
    reference = RunScores.from_record(read_json(path))
    assert reference == run

    variant = score_run(QUERIES, WORSE, QRELS)
    (row,) = retrieval_record(place("int8", "cpu"), variant, reference, {})["rows"]
    values, others = (list(scores.per_query["ndcg_at_5"].values()) for scores in (variant, run))
    assert row["ndcg_at_5_delta"] == pytest.approx(np.mean(values) - np.mean(others))
    assert row["ndcg_at_5_delta"] < 0
    assert row["p_value"] == paired_randomisation(values, others)
    assert paired_interval(values, others) == (-np.inf, np.inf), "of so few queries"
    assert row["ndcg_at_5_delta_low"] is row["ndcg_at_5_delta_high"] is None

    (same,) = retrieval_record(place("fp32", "cpu"), run, reference, {})["rows"]
    assert (same["ndcg_at_5_delta"], same["p_value"]) == (0.0, 1.0)


def test_variant_without_reference_has_no_delta(run):
    (row,) = retrieval_record(place("fp32", "cpu"), run, None, {})["rows"]
    assert row["ndcg_at_5_delta"] is None
    assert row["p_value"] is None


def test_reference_on_other_queries_is_refused(run):
    other = score_run(QUERIES, DOCUMENTS, {"q0": {"d0": 1}})
    with pytest.raises(ArtifactError, match="The reference has 1 judged of 3 queries on 4"):
        retrieval_record(place("fp32", "cpu"), run, other, {})


def test_unsupported_record_has_the_same_columns():
    record = unsupported_record(
        place("fp16", "openvino"), UnsupportedError("provider is not installed")
    )
    (row,) = record["rows"]
    assert tuple(row) == TABLES["retrieval"].all
    assert (row["status"], row["reason"]) == ("unsupported", "provider is not installed")
    assert all(row[column] is None for column in tuple(row)[4:18])
    csv.DictWriter(io.StringIO(), TABLES["retrieval"].all).writerow(row)
    json.dumps(record)
    with pytest.raises(ArtifactError, match="status 'unsupported'"):
        RunScores.from_record(record)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_pytrec_evals_of_the_whole_run(seed):
    rng = np.random.default_rng(seed)
    names = [f"d{index}" for index in rng.permutation(60)]
    queries = [f"q{index}" for index in range(30)]
    scores = rng.integers(0, 4, size=(30, 60)).astype(np.float32)  # nearly all are ties
    qrels = {
        query: {str(name): int(rng.integers(0, 3)) for name in rng.choice(names, size=6)}
        for query in queries[:-3]
    }
    qrels |= {queries[-3]: {}, queries[-2]: {names[0]: 0}}  # and the last is not in them
    run = rank(scores, queries, names, qrels)
    judged = {query: found for query, found in qrels.items() if found}
    full = {
        query: dict(zip(names, row.tolist(), strict=True))
        for query, row in zip(queries, scores, strict=True)
    }
    expected = pytrec_eval.RelevanceEvaluator(judged, {*METRICS.values(), "recip_rank"})
    for query, values in expected.evaluate(full).items():
        for name, measure in METRICS.items():
            assert run.per_query[name][query] == pytest.approx(values[measure], abs=1e-6)
        first = values["recip_rank"] if values["recip_rank"] >= 1 / 10 else 0
        assert run.per_query["mrr_at_10"][query] == pytest.approx(first, abs=1e-6)
    assert all(found.keys() == judged.keys() for found in run.per_query.values())


def test_record_without_scores_is_refused():
    with pytest.raises(ArtifactError, match="has no 'rows'"):
        RunScores.from_record({})


def test_overlap_by_hand():
    a = np.array([[5, 4, 3, 2, 1], [5, 4, 3, 2, 1]], np.float32)
    b = np.array([[4, 5, 1, 2, 3], [1, 2, 3, 4, 5]], np.float32)
    assert top_k_overlap(a, b, k=2) == (1 + 0) / 2
    assert top_k_overlap(a, b, k=3) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert top_k_overlap(a, b) == 1.0
    with pytest.raises(ValueError, match="no top 10"):
        top_k_overlap(a, b[:1])
    with pytest.raises(ValueError, match="no top 0"):
        top_k_overlap(a, b, k=0)
