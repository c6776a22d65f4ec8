"""mteb's interface piece by piece: what a model and a task say, and what reaches the encoder."""

from types import SimpleNamespace

import numpy as np
import pytest

from colport.base.errors import ConfigError
from colport.data.base import RetrievalDataset

pytest.importorskip("mteb", reason="an extra of its own; make test installs it")

from colport.measure import mteb_adapter
from colport.measure.mteb_adapter import PromptType


class Recorder:
    """An encoder of two graphs that notes its calls."""

    def __init__(self, document_type):
        self.document_type, self.calls = document_type, []
        sizes = {"text": 7, "image": 9}
        graphs = {name: SimpleNamespace(parameters=size) for name, size in sizes.items()}
        self.manifest = SimpleNamespace(
            digest="d" * 64, dim=2, graphs=graphs, is_single_vector=False, score="MaxSim"
        )

    def encode_queries(self, texts, batch_size):
        self.calls.append(("query", list(texts), batch_size))
        return [np.ones((1, 2), np.float32) for _ in texts]

    def encode_documents(self, items, batch_size):
        self.calls.append(("document", list(items), batch_size))
        return [np.zeros((1, 2), np.float32) for _ in items]


@pytest.fixture(params=["pages", "passages"])
def model(request, monkeypatch):
    opened = []

    def open_encoder(folder, provider, threads):
        opened.append((folder, provider, threads))
        return Recorder(request.param)

    monkeypatch.setattr(mteb_adapter, "open_encoder", open_encoder)
    found = mteb_adapter.ColPortEncoder("some/folder", provider={"type": "cuda"}, threads=3)
    assert opened == [("some/folder", {"type": "cuda"}, 3)]
    return found


def test_what_the_model_says_of_itself(model):
    meta = model.mteb_model_meta
    assert (meta.name, meta.revision) == ("colport/folder", "d" * 64)
    assert (meta.n_parameters, meta.embed_dim) == (9, 2)
    pages = model._encoder.document_type == "pages"
    assert meta.modalities == (["text", "image"] if pages else ["text"])
    assert meta.use_instructions is False


def test_queries_and_documents_reach_their_own_encoder(model):
    batches = [{"text": ["a", "b"], "image": ["A", "B"]}, {"text": ["c"], "image": ["C"]}]
    queries = model.encode(batches, prompt_type=PromptType.query, batch_size=5)
    documents = model.encode(batches, prompt_type=PromptType.document)
    upper = model._encoder.document_type == "pages"
    assert model._encoder.calls == [
        *(("query", ["a", "b"], 5), ("query", ["c"], 5)),
        ("document", ["A", "B"] if upper else ["a", "b"], 32),
        ("document", ["C"] if upper else ["c"], 32),
    ]
    assert [float(rows.max()) for rows in (*queries, *documents)] == [1] * 3 + [0] * 3


def test_pairs_are_scored_by_their_place(model):
    queries = [np.float32([[1, 0]]), np.float32([[0, 2], [1, 0]])]
    documents = [np.float32([[3, 5]]), np.float32([[7, 11], [13, 1]])]
    assert model.similarity(queries, documents).tolist() == [[3, 13], [13, 35]]
    assert model.similarity_pairwise(queries, documents).tolist() == [3, 35]
    with pytest.raises(ValueError, match=r"longer than|shorter than"):
        model.similarity_pairwise(queries, documents[:1])


@pytest.mark.parametrize("pages", [True, False])
def test_a_task_holds_the_dataset(pages):
    names = ["p1", "p2", "p3"]
    documents = ["a page", "another", "third"]
    opened = []

    class Pages(list):
        def __getitem__(self, index):
            opened.append(index)
            return SimpleNamespace(number=index)  # no text

    held = Pages([object()] * 3) if pages else documents
    qrels = {"q1": {"p2": 2}, "q2": {}}
    dataset = RetrievalDataset("trips", ["q1", "q2"], ["x", "y"], names, held, qrels)
    task = mteb_adapter.retrieval_task(dataset, "r1")
    meta = task.metadata
    assert (meta.name, meta.dataset) == ("trips", {"path": "trips", "revision": "r1"})
    assert (meta.category, meta.modalities) == (
        ("t2i", ["text", "image"]) if pages else ("t2t", ["text"])
    )
    assert (meta.main_score, meta.eval_langs) == ("ndcg_at_5", ["und"])
    task.load_data()
    split = task.dataset["default"]["test"]
    assert task.data_loaded
    assert split["relevant_docs"] == {"q1": {"p2": 2}}
    assert split["queries"].to_dict() == {"id": ["q1", "q2"], "text": ["x", "y"]}
    assert split["corpus"]["id"][:] == names
    opened.clear()
    rows = split["corpus"][1:3]
    if pages:
        assert [page.number for page in rows["image"]] == opened == [1, 2]
    else:
        assert rows["text"] == documents[1:]


def test_each_named_task_is_a_retrieval_task_and_loaded(monkeypatch):
    dataset = RetrievalDataset("trips", ["q"], ["x"], ["p"], ["a passage"], {"q": {"p": 1}})
    known = {name: mteb_adapter.retrieval_task(dataset, "r1") for name in ("trips", "bills")}
    monkeypatch.setattr(mteb_adapter.mteb, "get_task", {**known, "pairs": object()}.__getitem__)
    tasks = mteb_adapter.named_tasks(list(known))
    assert tasks == list(known.values())
    assert [task.data_loaded for task in tasks] == [True, True]
    with pytest.raises(ConfigError, match="tasks: 'pairs' is no retrieval task"):
        mteb_adapter.named_tasks(["trips", "pairs"])


def test_an_evaluation_is_told_the_batch_size_and_keeps_results(model, monkeypatch, tmp_path):
    given = {}

    def evaluate(encoder, tasks, **settings):
        given.update(encoder=encoder, tasks=tasks, **settings)
        results = [
            SimpleNamespace(task_name=name, get_score=lambda score=score: score)
            for name, score in (("trips", 0.75), ("bills", 0.5))
        ]
        return SimpleNamespace(task_results=results)

    monkeypatch.setattr(mteb_adapter.mteb, "evaluate", evaluate)
    found = mteb_adapter.evaluate(model, ["task"], tmp_path / "out", 4)
    assert found == {"trips": 0.75, "bills": 0.5}
    assert given["encoder"] is model
    assert given["encode_kwargs"]["batch_size"] == 4
    assert given["cache"].cache_path == tmp_path / "out"
    assert given["co2_tracker"] is False
