from __future__ import annotations

import numpy as np
import pytest

from colport.scoring.approximate import approximate_maxsim
from colport.scoring.maxsim import maxsim
from colport.scoring.store import EmbeddingSet


def embeddings(rng: np.random.Generator, lengths: list[int], alike: float) -> list[np.ndarray]:
    shared = rng.standard_normal(128)
    items = [alike * shared + rng.standard_normal((length, 128)) for length in lengths]
    return [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in items]


def assert_best_are_exact(scores: np.ndarray, expected: np.ndarray, count: int) -> None:
    best = np.argsort(-expected, axis=1)[:, :count]
    np.testing.assert_array_equal(np.argsort(-scores, axis=1)[:, :count], best)
    np.testing.assert_allclose(
        np.take_along_axis(scores, best, axis=1),
        np.take_along_axis(expected, best, axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("alike", [0, 3])
@pytest.mark.parametrize("max_bytes", [400_000, 1 << 24])
def test_the_best_documents_are_exact(alike, max_bytes):
    rng = np.random.default_rng(1)
    queries = embeddings(rng, [5] * 40, alike)
    documents = embeddings(rng, rng.integers(1, 60, 400).tolist(), alike)
    stacked = EmbeddingSet.from_arrays([str(i) for i in range(400)], documents)
    expected = maxsim(queries, documents)
    scores = approximate_maxsim(queries, stacked, max_bytes=max_bytes)
    assert_best_are_exact(scores, expected, 10)
    # Not all were scored exactly, and the others are near.
    assert (np.abs(scores - expected) > 1e-5).any()
    assert np.abs(scores - expected).max() < 0.1


def test_documents_that_differ_less_than_the_error_are_all_scored_exactly():
    rng = np.random.default_rng(2)
    (page,) = embeddings(rng, [30], 0)
    documents = [page + rng.normal(0, 1e-5, page.shape).astype(np.float32) for _ in range(60)]
    queries = embeddings(rng, [20] * 10, 0)
    np.testing.assert_allclose(
        approximate_maxsim(queries, documents), maxsim(queries, documents), rtol=1e-6
    )


def test_tokens_of_zeros_and_empty_queries():
    rng = np.random.default_rng(3)
    documents = [*embeddings(rng, [4] * 30, 0), np.zeros((3, 128), np.float32)]
    queries = [np.zeros((0, 128), np.float32), *embeddings(rng, [150], 0)]
    queries.append(np.zeros((2, 128), np.float32))
    scores = approximate_maxsim(queries, documents)
    assert (scores[[0, 2]] == 0).all()
    assert_best_are_exact(scores[1:2], maxsim(queries[1:2], documents), 10)


def test_few_documents_or_few_query_tokens_are_scored_exactly():
    rng = np.random.default_rng(4)
    queries = embeddings(rng, [20] * 10, 0)
    documents = embeddings(rng, [9] * 40, 0)
    few = documents[:7]
    np.testing.assert_allclose(approximate_maxsim(queries, few), maxsim(queries, few), rtol=1e-6)
    one = queries[:1]
    np.testing.assert_array_equal(approximate_maxsim(one, documents), maxsim(one, documents))
    assert approximate_maxsim(queries, []).shape == (10, 0)
    assert approximate_maxsim([], documents).shape == (0, 40)


def test_exact_must_be_positive():
    with pytest.raises(ValueError, match="exact is 0"):
        approximate_maxsim([np.ones((1, 8), np.float32)], [np.ones((1, 8), np.float32)], exact=0)
