"""Parity over inputs of different length and several batch sizes: which figure is whose."""

import numpy as np
import pytest

from colport.measure.parity import Difference, Tolerance, compare, measure

LABELS = {"model": "m", "variant": "v", "provider": "cpu"}
UNIT = np.eye(4, dtype=np.float32)


def turned(*cosines):
    """Token embeddings that lie so far from the first axis."""
    return np.array([[c, np.sqrt(1 - c * c), 0, 0] for c in cosines], np.float32)


def reference(*lengths):
    return [UNIT[:1].repeat(length, axis=0) for length in lengths]


def test_the_worst_token_of_each_input():
    expected = reference(2, 0, 1, 3)
    found = [turned(0.9, 0.5), UNIT[:0], turned(0.7), turned(0.8, 0.95, 0.6)]
    difference = compare(expected, found)
    assert difference.worst == pytest.approx([0.5, 1.0, 0.7, 0.6], abs=1e-6)
    assert (difference.inputs, difference.tokens) == (4, 6)
    assert Difference(1, 0, 0.0, np.empty(0)).worst == []


class Batches:
    """Documents that depend on the batch size, and the texts that were asked for."""

    def __init__(self, answers):
        self.left, self.asked = {size: iter(found) for size, found in answers.items()}, []

    def encode_queries(self, texts, batch_size):
        self.asked.append((tuple(texts), batch_size))
        return reference(1, 1) if "q" in texts else []

    def encode_documents(self, documents, batch_size):
        self.asked.append((tuple(documents), batch_size))
        return [next(self.left[batch_size]) for _ in documents]


def measured(answers, tolerance, documents=("a", "b")):
    encoder = Batches(answers)
    expected = {"query": reference(1, 1), "document": reference(1, 2)}
    record = measure(encoder, ["q", "r"], documents, expected, list(answers), tolerance, LABELS)
    return record, encoder


def test_the_worst_over_batch_sizes_counts_for_each_figure():
    answers = {
        1: [turned(0.99), turned(1.0, 1.0)],
        4: [turned(1.0), turned(0.97, 1.0)],
        8: [turned(1.0), turned(0.98, 0.975)],
    }
    record, encoder = measured(answers, Tolerance(min_cosine=0.97))
    query, document = record["rows"]
    assert document["min_cosine"] == pytest.approx(0.97, abs=1e-6)
    assert document["mean_cosine"] == pytest.approx((1.0 + 0.98 + 0.975) / 3, abs=1e-6)
    assert document["max_abs_diff"] == pytest.approx(np.sqrt(1 - 0.97**2), abs=1e-6)
    assert (document["inputs"], document["tokens"], query["tokens"]) == (2, 3, 2)
    # Against the first batch size: 0.141 there, 0.243 and 0.222 in the others.
    assert document["batch_max_abs_diff"] == pytest.approx(np.sqrt(1 - 0.97**2), abs=1e-6)
    assert record["input_min_cosine"]["document"] == pytest.approx([0.99, 0.97], abs=1e-6)
    assert record["quantiles"]["document"][4]["0.5"] == pytest.approx(1.0)
    assert record["quantiles"]["document"][8]["0.0"] == pytest.approx(0.975, abs=1e-6)
    assert record["settings"] == {"batch_sizes": [1, 4, 8], "tolerance": "min_cosine>=0.97"}
    assert [size for _, size in encoder.asked] == [1, 1, 1, 1, 4, 4, 8, 8]
    texts = [texts for texts, _ in encoder.asked[2:6]]
    assert texts == [("a",), ("b",), ("q", "r"), ("a", "b")]


@pytest.mark.parametrize(
    ("tolerance", "passed"),
    [
        (Tolerance(), True),
        (Tolerance(min_cosine=0.6), True),
        (Tolerance(min_cosine=0.6001), False),
        (Tolerance(max_abs_diff=0.8), True),
        (Tolerance(max_abs_diff=0.7999), False),
        (Tolerance(max_abs_diff=0.8, min_cosine=0.7), False),
        (Tolerance(max_abs_diff=0.7, min_cosine=0.6), False),
    ],
)
def test_both_tolerances_hold(tolerance, passed):
    exact = np.array([[0.6, 0.8, 0, 0]], np.float64)
    answers = {1: [exact, np.vstack([exact, exact])]}
    row = measured(answers, tolerance)[0]["rows"][1]
    assert row["max_abs_diff"] == 0.8
    assert row["min_cosine"] == pytest.approx(0.6)
    if abs((tolerance.min_cosine or 0) - 0.6) > 1e-9:  # which may be rounded
        assert (row["passed"], row["status"]) == (passed, "ok" if passed else "failed")


def test_overlap_is_the_least_over_batch_sizes():
    """Of twelve documents the best ten; in the opposite order they share eight."""
    near = [turned(cosine) for cosine in np.linspace(0.05, 0.95, 12)]
    expected = {"query": reference(1, 1), "document": near}

    def overlap(answers):
        record = measure(
            *(Batches(answers), ["q", "r"], ["d"] * 12, expected, list(answers)),
            *(Tolerance(), LABELS),
        )
        return [row["top10_overlap"] for row in record["rows"]]

    assert overlap({1: near}) == [1.0, 1.0]
    assert overlap({1: near, 2: near[::-1]}) == pytest.approx([0.8, 0.8])
    assert overlap({1: near, 2: [turned(0.5, 0.5), *near[1:]]}) == [0.0, 0.0]


def test_one_batch_size_says_nothing_of_batches():
    answers = {1: [turned(1.0), turned(1.0, 1.0)]}
    assert measured(answers, Tolerance())[0]["rows"][1]["batch_max_abs_diff"] is None
