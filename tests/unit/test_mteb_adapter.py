"""mteb runs our folders, and gives our numbers."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import colport.measure
from colport.base.errors import ConfigError, DatasetError, UnsupportedError
from colport.cli import main
from colport.data.base import RetrievalDataset
from colport.data.datasets import load_retrieval_dataset
from colport.runtime.encoder import Encoder
from colport.scoring.metrics import EXPONENTIAL, METRIC_NAMES
from colport.scoring.score import RunScores
from colport.scoring.store import EmbeddingSet
from tests.scores import score_run

from ..conftest import RESOURCES

PER_QUERY = {
    **{f"ndcg_at_{k}": f"ndcg_cut_{k}" for k in (1, 5, 10)},
    **{f"recall_at_{k}": f"recall_{k}" for k in (1, 5, 10)},
    "map": "map_cut_1000",
}
"""Our metric to what mteb asks pytrec_eval for."""


@pytest.fixture
def adapter():
    pytest.importorskip("mteb", reason="an extra of its own; make test installs it")
    from colport.measure import mteb_adapter

    return mteb_adapter


class Words:
    """An encoder whose token embeddings are axes, one a letter: scores are whole, ties abound."""

    document_type = "passages"
    manifest = SimpleNamespace(
        digest="0" * 64,
        dim=26,
        graphs={"text": SimpleNamespace(parameters=0)},
        is_single_vector=False,
    )

    def __init__(self, *_, **__) -> None:
        self._axes = np.eye(26, dtype=np.float32) - 0.5

    def encode_queries(self, texts, batch_size=8):
        return [self._axes[[ord(letter) - ord("a") for letter in text]] for text in texts]

    encode_documents = encode_queries


def ours(dataset: RetrievalDataset, encoder) -> RunScores:
    queries = EmbeddingSet.from_arrays(dataset.query_ids, encoder.encode_queries(dataset.queries))
    documents = encoder.encode_documents(dataset.documents)
    return score_run(
        queries, EmbeddingSet.from_arrays(dataset.document_ids, documents), dataset.qrels
    )


@pytest.fixture
def compare(adapter, tmp_path, monkeypatch):
    """Run a dataset through mteb, and compare its file and its per-query scores with ours."""
    from mteb._evaluators import retrieval_evaluator

    calculate, seen = retrieval_evaluator.calculate_retrieval_scores, []

    def spy(*arguments):
        seen.append(calculate(*arguments))
        return seen[-1]

    monkeypatch.setattr(retrieval_evaluator, "calculate_retrieval_scores", spy)

    def run(folder, dataset: RetrievalDataset, encoder) -> RunScores:
        model = adapter.ColPortEncoder(folder)
        scores = adapter.evaluate(model, [adapter.retrieval_task(dataset, "r1")], tmp_path, 8)
        (file,) = tmp_path.glob(f"results/*/{encoder.manifest.digest}/{dataset.name}.json")
        stored = json.loads(file.read_text())
        (found,) = stored["scores"]["test"]
        own = ours(dataset, encoder)
        (unrounded,) = [result.all_scores for result in seen]
        for name, theirs in PER_QUERY.items():
            per_query = {query: values[theirs] for query, values in unrounded.items()}
            assert per_query == pytest.approx(own.per_query[name], abs=1e-6), name
        for name in {*METRIC_NAMES} - {EXPONENTIAL}:  # which mteb has not
            mean = np.mean(list(own.per_query[name].values()))
            rounding = 1e-6 if name == "mrr_at_10" else 5.1e-6
            assert found[name.replace("map", "map_at_1000")] == pytest.approx(mean, abs=rounding)
        assert scores == {dataset.name: found["ndcg_at_5"]}
        return own

    return run


def test_scores_are_those_of_mteb_and_pytrec_eval(adapter, compare, monkeypatch):
    monkeypatch.setattr(adapter, "open_encoder", Words)
    rng = np.random.default_rng(2)
    documents = ["".join(rng.choice(list("abcdef"), size=rng.integers(1, 6))) for _ in range(40)]
    names = [f"d{index}" for index in rng.permutation(40)]
    queries = {"q1": "abc", "q2": "abc", "blank": "", "unjudged": "f", "empty": "e", "zero": "def"}
    queries |= {f"r{index}": "".join(rng.choice(list("abcdefg"), size=4)) for index in range(12)}
    qrels = {query: {} for query in queries if query != "unjudged"}
    for query in set(queries) - {"unjudged", "empty"}:
        judged = rng.choice(names, size=8, replace=False)
        qrels[query] = {str(name): int(rng.integers(0, 3)) for name in judged} | {names[0]: 1}
    qrels["q2"] = qrels["q1"]
    qrels["zero"] = dict.fromkeys(names[:3], 0)
    dataset = RetrievalDataset(
        "ties", list(queries), list(queries.values()), names, documents, qrels
    )
    run = compare("folder", dataset, Words())
    assert run.per_query["map"].keys() == set(queries) - {"unjudged", "empty"}
    assert {values["q1"] == values["q2"] for values in run.per_query.values()} == {True}
    assert {values["zero"] for values in run.per_query.values()} == {0}

    import pytrec_eval

    scores = Words().encode_queries(dataset.queries), Words().encode_documents(documents)
    full = {
        query: {
            name: float((tokens @ page.T).max(axis=1).sum())
            for name, page in zip(names, scores[1], strict=True)
        }
        for query, tokens in zip(queries, scores[0], strict=True)
    }
    assert len({value for row in full.values() for value in row.values()}) < 20  # many ties
    judged = {query: found for query, found in qrels.items() if found}
    measures = {name.replace("_cut_1000", "") for name in PER_QUERY.values()}
    expected = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(full)
    for name, measure in PER_QUERY.items():
        for query, values in expected.items():
            theirs = values[measure.replace("_cut_1000", "")]
            assert run.per_query[name][query] == pytest.approx(theirs, abs=1e-6)


class Numbers(Words):
    """An encoder whose documents score lower the higher their number."""

    def encode_documents(self, texts, batch_size=8):
        return [np.float32([[1 - int(text) / 2000]]) for text in texts]

    def encode_queries(self, texts, batch_size=8):
        return [np.ones((1, 1), np.float32) for _ in texts]


def test_documents_beyond_the_thousandth_count_for_neither(adapter, compare, monkeypatch):
    monkeypatch.setattr(adapter, "open_encoder", Numbers)
    names = [f"{rank:04d}" for rank in range(1, 1201)]
    qrels = {"near": {"0003": 1, "0999": 1, "1100": 1}, "far": {"1200": 1}}
    dataset = RetrievalDataset("deep", ["near", "far"], ["x", "y"], names, names, qrels)
    run = compare("folder", dataset, Numbers())
    assert run.per_query["map"] == {"near": pytest.approx((1 / 3 + 2 / 999) / 3), "far": 0}


@pytest.mark.parametrize(
    ("family", "declaration"),
    [
        ("colbert", {"path": "demo-passages", "schema": "beir", "documents": "passages"}),
        ("colpali", {"path": "demo-pages-qa", "schema": "qa"}),
    ],
)
def test_an_exported_folder_scores_as_in_the_pipeline(exported, compare, family, declaration):
    path = str(RESOURCES / "datasets" / declaration["path"])
    dataset = load_retrieval_dataset("demo", {**declaration, "path": path, "limit": 24})
    run = compare(exported[family], dataset, Encoder(exported[family]))
    assert run.documents == 24


def test_the_model_is_described(adapter, exported):
    model = adapter.ColPortEncoder(exported["colpali"], name="me/colpali-onnx")
    meta = model.mteb_model_meta
    assert meta.name == "me/colpali-onnx"
    assert meta.revision == Encoder(exported["colpali"]).manifest.digest
    assert meta.similarity_fn_name == "MaxSim"
    assert meta.modalities == ["text", "image"]
    default = adapter.ColPortEncoder(exported["colbert"]).mteb_model_meta
    assert default.name == "colport/colbert"
    assert default.modalities == ["text"]


def test_similarity_is_ragged_and_pairwise(adapter, exported):
    model = adapter.ColPortEncoder(exported["colbert"])
    below = [np.float32([[-1, 0]]), np.float32([[-2, 0], [-3, 0], [-4, 0]])]
    query = [np.float32([[1, 0]])]
    assert model.similarity(query, below).tolist() == [[-1, -2]]  # padding would give 0
    assert model.similarity_pairwise(query * 2, below).tolist() == [-1, -2]


def test_what_cannot_be_run_is_said(adapter, exported):
    model = adapter.ColPortEncoder(exported["colpali"])
    with pytest.raises(ConfigError, match="name: found 'mine'; allowed is organisation/model"):
        adapter.ColPortEncoder(exported["colpali"], name="mine")
    with pytest.raises(ConfigError, match="retrieval tasks only"):
        model.encode([{"text": ["a"]}])
    with pytest.raises(ConfigError, match="documents have no image; found id, text"):
        model.encode([{"text": ["a"], "id": ["1"]}], prompt_type=adapter.PromptType.document)
    with pytest.raises(ConfigError, match="has no task 'NoSuchTask'"):
        adapter.named_tasks(["NoSuchTask"])
    with pytest.raises(ConfigError, match="'STS12' is no retrieval task"):
        adapter.named_tasks(["STS12"])
    with pytest.raises(DatasetError, match="VidoreDocVQARetrieval: its dataset cannot be loaded"):
        adapter.named_tasks(["VidoreDocVQARetrieval"])
    with pytest.raises(UnsupportedError, match="No query has a judgement"):
        adapter.retrieval_task(RetrievalDataset("own", ["q"], ["a"], ["d"], ["b"], {}), "r1")


def test_command_says_the_score_and_keeps_mtebs_files(
    adapter, exported, tmp_path, monkeypatch, capsys
):
    names = ["p1", "p2", "p3"]
    texts = ["a blue boat", "the red train", "green hills"]
    dataset = RetrievalDataset("trips", ["q"], ["red train"], names, texts, {"q": {"p2": 1}})
    tasks = [adapter.retrieval_task(dataset, "r1")]
    monkeypatch.setattr(adapter, "named_tasks", lambda names: tasks)
    call = ["colport", "mteb", str(exported["colbert"]), "--tasks", "trips", "-o", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*call, "--name", "me/trips-onnx", "--quiet"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out == "trips: ndcg_at_5 1.00000\n"
    (file,) = tmp_path.glob("results/me__trips-onnx/*/trips.json")
    assert json.loads(file.read_text())["task_name"] == "trips"


def test_without_mteb_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.delitem(sys.modules, "colport.measure.mteb_adapter", raising=False)
    monkeypatch.delattr(colport.measure, "mteb_adapter", raising=False)
    monkeypatch.setattr("sys.argv", ["colport", "mteb", "folder", "--tasks", "T", "-o", "out"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "pip install 'colport[mteb]'" in capsys.readouterr().err
