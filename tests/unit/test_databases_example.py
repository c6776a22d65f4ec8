"""examples/databases: each database, with its own client, ranks as the encoder's MaxSim."""

import importlib
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from colport import Encoder, cli
from colport.scoring.store import read_embeddings
from tests.conftest import ROOT

QUERIES = ["late interaction of tokens", "why one vector is too little", "a number of threads"]
DATABASES = ["qdrant", "lancedb"]


@pytest.fixture(scope="module")
def kept(exported, tmp_path_factory):
    """Files of the command: the handbook's passages, and queries."""
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "queries.txt").write_text("\n".join(QUERIES))
    passages = ROOT / "resources/handbook/passages.jsonl"
    for name, inputs in (
        ("documents", [passages]),
        ("queries", [folder / "queries.txt", "--queries"]),
    ):
        call = ["encode", exported["colbert"], *inputs, "-o", folder / f"{name}.safetensors"]
        done = CliRunner().invoke(cli.app, [*map(str, call)])
        assert done.exit_code == 0, done.output
    return folder


def ranked(database, documents, queries, folder):
    """Each query's best ten, as ids and scores, by the database; as its example does it."""
    if database == "qdrant":
        client = pytest.importorskip("qdrant_client", reason="envs/dev.txt has it")
        example = importlib.import_module("in_qdrant")
        connected = client.QdrantClient(":memory:")
        example.fill(connected, "documents", documents)
        return [example.search(connected, "documents", tokens) for tokens in queries]
    client = pytest.importorskip("lancedb", reason="it has 75 MB; pip install lancedb")
    example = importlib.import_module("in_lancedb")
    table = example.fill(client.connect(str(folder / "lance")), "documents", documents)
    return [example.search(table, tokens) for tokens in queries]


@pytest.mark.parametrize("database", DATABASES)
def test_a_database_ranks_as_maxsim(exported, kept, tmp_path, monkeypatch, database):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "examples/databases")])
    documents, queries = (
        read_embeddings(kept / f"{n}.safetensors") for n in ("documents", "queries")
    )
    found = ranked(database, documents, queries, tmp_path)
    scores = Encoder(exported["colbert"]).score(queries, documents)
    for own, ranking in zip(scores, found, strict=True):
        best = np.argsort(-own, kind="stable")[:10]
        assert [name for name, _ in ranking] == [documents.ids[place] for place in best]
        np.testing.assert_allclose([score for _, score in ranking], own[best], atol=1e-3)
