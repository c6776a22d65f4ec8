"""Smaller forms of embeddings: what is stored is what is scored, and how large it is."""

from __future__ import annotations

import numpy as np
import pytest

from colport.base.names import FULL
from colport.scoring import forms
from colport.scoring.forms import Form, blocks, derive, pool_tokens
from colport.scoring.maxsim import maxsim
from colport.scoring.record import retrieval_record
from colport.scoring.score import RunScores, rank, score_forms
from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings
from tests.scores import paired_randomisation, score_run

FORMS = [
    Form("float16", storage="float16"),
    Form("int8", storage="int8"),
    Form("binary", storage="binary"),
    Form("pooled-3", pooling=3),
    Form("pooled-3-binary", pooling=3, storage="binary"),
]
NAMES = tuple(f"d{index}" for index in range(20))
QRELS = {f"q{index}": {f"d{index}": 1, "d19": 1} for index in range(6)}


def corpus(dim: int = 16) -> tuple[EmbeddingSet, EmbeddingSet]:
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((7 + index, dim), np.float32) for index in range(len(NAMES))]
    items = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in items]
    queries = [item[:4] for item in items[: len(QRELS)]]
    return EmbeddingSet.from_arrays(list(QRELS), queries), EmbeddingSet.from_arrays(NAMES, items)


def tokens(documents: EmbeddingSet) -> int:
    return int(documents.lengths.sum())


def test_blocks_are_the_whole_in_order(monkeypatch):
    documents = corpus()[1].stored_as("int8")
    monkeypatch.setattr(forms, "_BLOCK_TOKENS", 60)
    parts = list(blocks(documents))
    assert len(parts) > 4
    assert [name for part in parts for name in part.ids] == list(NAMES)
    assert max(tokens(part) for part in parts) <= 60
    found = [item for part in parts for item in part]
    for item, expected in zip(found, documents, strict=True):
        np.testing.assert_array_equal(item, expected)
    assert all(np.shares_memory(part.values, documents.values) for part in parts)


def test_forms_that_are_pooled_alike_are_pooled_once(monkeypatch):
    pooled = []

    def counted(item, factor):
        pooled.append(factor)
        return pool_tokens(item, factor)

    monkeypatch.setattr(forms, "pool_tokens", counted)
    _, documents = corpus()
    stored = {form.name: found for form, found in derive(documents, [Form(FULL), *FORMS])}
    assert pooled == [3] * len(NAMES)
    assert stored[FULL] is documents
    for item, expected in zip(stored["pooled-3"], documents, strict=True):
        np.testing.assert_array_equal(item, pool_tokens(expected, 3))


def test_a_form_without_a_storage_keeps_the_model_s():
    for precision in ("float32", "float16"):
        documents = corpus()[1].stored_as(precision)
        found = dict(derive(documents, [Form(FULL), FORMS[3]]))
        assert [stored.precision for stored in found.values()] == [precision] * 2
        assert found[Form(FULL)] is documents


def test_each_form_is_scored_as_it_is_stored(tmp_path, monkeypatch):
    """Against files that are written and read back, and then stored so."""
    monkeypatch.setattr(forms, "_BLOCK_TOKENS", 60)
    queries, documents = corpus()
    shards = [
        EmbeddingSet.from_arrays(NAMES[first : first + 7], list(documents)[first : first + 7])
        for first in range(0, 20, 7)
    ]
    run, smaller = score_forms(queries, shards, QRELS, FORMS)
    assert run == score_run(queries, documents, QRELS)
    assert run.bytes_per_document == tokens(documents) * 16 * 4 / 20
    assert list(smaller) == [form.name for form in FORMS]
    for form in FORMS:
        items = [pool_tokens(item, form.pooling) for item in documents]
        path = tmp_path / f"{form.name}.safetensors"
        write_embeddings(path, NAMES, items, {})
        stored = read_embeddings(path).stored_as(form.storage or "float32")
        expected = rank(maxsim(queries, stored), queries.ids, NAMES, QRELS)
        found = smaller[form.name]
        assert (found.per_query, found.rankings) == (expected.per_query, expected.rankings)
        assert found.bytes_per_document == pytest.approx(stored.bytes_per_item)
    assert smaller["float16"].bytes_per_document == run.bytes_per_document / 2
    assert smaller["int8"].bytes_per_document == tokens(documents) * (16 + 2) / 20
    assert smaller["binary"].bytes_per_document == tokens(documents) * 2 / 20


def test_the_record_has_a_row_a_form_against_pytorchs_full_embeddings():
    queries, documents = corpus()
    run, smaller = score_forms(queries, documents, QRELS, FORMS)
    place = {"model": "demo", "variant": "int8", "provider": "cpu", "dataset": "pages"}
    record = retrieval_record(place, run, run, {"resamples": 200}, smaller)
    assert [row["embeddings"] for row in record["rows"]] == [FULL, *smaller]
    alone = retrieval_record(place, run, run, {"resamples": 200})
    for key in ("statistics", "per_query", "rankings"):
        assert record[key] == alone[key]
    assert record["rows"][0] == alone["rows"][0]
    assert RunScores.from_record(record) == run
    for row, (name, found) in zip(record["rows"][1:], smaller.items(), strict=True):
        own, others = (list(s.per_query["ndcg_at_5"].values()) for s in (found, run))
        assert row["ndcg_at_5_delta"] == pytest.approx(np.mean(own) - np.mean(others))
        assert row["p_value"] == paired_randomisation(own, others, resamples=200)
        assert row["bytes_per_document"] == found.bytes_per_document
        assert record["forms"][name]["per_query"] == found.per_query
    assert record["rows"][3]["ndcg_at_5_delta"] != 0  # a bit a value changes rankings here
    reference = retrieval_record(
        {**place, "variant": "pytorch", "provider": "torch-cpu"},
        *(run, None, {"resamples": 200}, smaller),
    )
    assert [row["ndcg_at_5_delta"] for row in reference["rows"]] == [
        row["ndcg_at_5_delta"] for row in record["rows"]
    ]
    assert reference["rows"][0]["p_value"] is None
    assert reference["rows"][1]["p_value"] == record["rows"][1]["p_value"]


def test_a_form_that_cannot_be_is_unsupported():
    queries, documents = corpus(dim=12)
    run, smaller = score_forms(queries, documents, QRELS, FORMS[1:3])
    reason = "Embeddings have 12 dimensions; binary storage needs a multiple of 8."
    assert smaller["binary"] == reason
    place = {"model": "demo", "variant": "int8", "provider": "cpu", "dataset": "pages"}
    rows = retrieval_record(place, run, run, {}, smaller)["rows"]
    assert [(row["embeddings"], row["status"], row["reason"]) for row in rows] == [
        (FULL, "ok", ""),
        ("int8", "ok", ""),
        ("binary", "unsupported", reason),
    ]
