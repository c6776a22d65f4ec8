"""Parity figures by hand, and what counts as failed."""

import numpy as np
import pytest

from colport.base.errors import PeerError, UnsupportedError
from colport.measure.overflow import Peak, Reach
from colport.measure.parity import Tolerance, compare, embeddings, measure, unsupported

LABELS = {"model": "m", "variant": "v", "provider": "cpu"}
QUERIES = [np.array([[1.0, 0.0]], np.float32)]
DOCUMENTS = [np.eye(2, dtype=np.float32), np.array([[0.6, 0.8]], np.float32)]


class Fixed:
    """An encoder whose answers depend on the batch size."""

    def __init__(self, answers):
        self.answers = answers

    def encode_queries(self, queries, batch_size):
        return QUERIES

    def encode_documents(self, documents, batch_size):
        return [self.answers[batch_size]["ab".index(name)] for name in documents]


def test_differences_by_hand():
    turned = [np.array([[0.8, 0.6], [0.0, 1.0]], np.float32), DOCUMENTS[1]]
    found = compare(DOCUMENTS, turned)
    assert (found.inputs, found.tokens) == (2, 3)
    assert found.max_abs_diff == pytest.approx(0.6)
    np.testing.assert_allclose(found.cosines, [0.8, 1.0, 1.0], atol=1e-7)


def test_other_shapes_and_values_that_are_not_finite_are_reasons():
    assert "shape (1, 2), reference (2, 2)" in compare(DOCUMENTS, [DOCUMENTS[1]] * 2).reason
    broken = [DOCUMENTS[0] * np.nan, DOCUMENTS[1]]
    assert compare(DOCUMENTS, broken).reason == "values not finite"


def test_a_zero_vector_agrees_with_zero_only():
    zero = [np.zeros((1, 2), np.float32)]
    assert compare(zero, zero).cosines.tolist() == [1.0]
    assert compare([DOCUMENTS[1]], zero).cosines.tolist() == [0.0]


def run(answers, tolerance):
    return measure(
        Fixed(answers),
        ["q"],
        ["a", "b"],
        {"query": QUERIES, "document": DOCUMENTS},
        list(answers),
        tolerance,
        LABELS,
    )


def test_the_worst_batch_size_counts():
    turned = [np.array([[0.8, 0.6], [0.0, 1.0]], np.float32), DOCUMENTS[1]]
    record = run({1: DOCUMENTS, 2: turned}, Tolerance(max_abs_diff=1e-4, min_cosine=0.9))
    query, document = record["rows"]
    assert (query["passed"], query["status"], query["max_abs_diff"]) == (True, "ok", 0.0)
    assert document["passed"] is False
    assert document["status"] == "failed"
    assert document["reason"] == "max_abs_diff 0.6 > 0.0001; min_cosine 0.800000 < 0.9"
    assert document["mean_cosine"] == pytest.approx((0.8 + 1 + 1) / 3)
    assert document["batch_max_abs_diff"] == pytest.approx(0.6)
    assert query["batch_max_abs_diff"] == 0.0
    assert document["tolerance"] == "max_abs_diff<=0.0001 min_cosine>=0.9"
    assert record["input_min_cosine"]["document"] == pytest.approx([0.8, 1.0])
    assert record["input_min_cosine"]["query"] == pytest.approx([1.0])


def test_activations_beyond_fp16_fail_a_kind_that_is_otherwise_right():
    fits, beyond = (Peak("text", "MatMul", name, value) for name, value in (("a", 9.0), ("b", 1e6)))
    record = measure(
        Fixed({1: DOCUMENTS}),
        *(["q"], ["a", "b"], {"query": QUERIES, "document": DOCUMENTS}, [1], Tolerance(), LABELS),
        {"query": Reach(fits, None), "document": Reach(beyond, beyond)},
    )
    query, document = record["rows"]
    assert (query["status"], query["largest_activation"]) == ("ok", 9.0)
    assert (document["status"], document["passed"]) == ("failed", False)
    assert document["largest_activation"] == 1e6
    assert document["reason"] == "MatMul 'b' of the text graph gives 1e+06, fp16 ends at 65504"
    assert record["reaches"]["document"]["first"]["node"] == "b"


def test_nan_fails_and_names_the_batch_size():
    record = run({1: DOCUMENTS, 4: [DOCUMENTS[0] * np.nan, DOCUMENTS[1]]}, Tolerance())
    document = record["rows"][1]
    assert document["passed"] is False
    assert document["reason"] == "batch size 4: values not finite"
    assert document["max_abs_diff"] is None
    assert document["top10_overlap"] == 0.0


def test_unsupported_is_neither_passed_nor_failed():
    rows = unsupported(LABELS, UnsupportedError("no such provider"))["rows"]
    assert [row["kind"] for row in rows] == ["query", "document"]
    assert {row["status"] for row in rows} == {"unsupported"}
    assert {row["passed"] for row in rows} == {None}


class SingleInputs:
    """A peer's graph that breaks at every batch above one."""

    def encode_queries(self, queries, batch_size):
        if batch_size > 1:
            raise PeerError("shape mismatch")
        return QUERIES

    def encode_documents(self, documents, batch_size):
        return [DOCUMENTS["ab".index(name)] for name in documents]


def test_a_peer_that_breaks_at_one_batch_size_fails_with_its_error():
    reference = {"query": QUERIES, "document": DOCUMENTS}
    record = measure(
        SingleInputs(), ["q"], ["a", "b"], reference, [1, 8], Tolerance(min_cosine=0.9), LABELS
    )
    for row in record["rows"]:
        assert (row["status"], row["reason"]) == ("failed", "batch size 8: shape mismatch")
    assert record["quantiles"]["query"][1]["0.0"] == 1.0
    assert record["quantiles"]["query"][8] == {}


def test_a_failed_peer_has_failed_rows():
    rows = unsupported(LABELS, PeerError("its own words"))["rows"]
    assert {(row["status"], row["reason"]) for row in rows} == {("failed", "its own words")}


def test_inputs_of_one_kind_alone_are_embedded():
    found = embeddings(Fixed({None: DOCUMENTS}), ["q"], [])
    assert (found["query"], found["document"]) == (QUERIES, [])
