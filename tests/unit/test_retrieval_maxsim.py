from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from colport.scoring.maxsim import blocks, maxsim, products
from colport.scoring.maxsim.tiling import _FLOAT, Tiling
from colport.scoring.store import EmbeddingSet

QUERIES = [np.array([[1, 0], [0, 1]], np.float32), np.array([[2, -1]], np.float32)]
DOCUMENTS = [
    np.array([[1, 2]], np.float32),
    np.array([[-1, -1], [-3, -2]], np.float32),
    np.array([[4, 0], [0, 5], [1, 1]], np.float32),
]
# Query 0 sums its two best components, query 1 takes max(2x - y).
EXPECTED = [[1 + 2, -1 - 1, 4 + 5], [0, -1, 8]]


def ragged(rng: np.random.Generator, count: int, low: int, high: int) -> list[np.ndarray]:
    lengths = rng.integers(low, high + 1, size=count)
    return [rng.standard_normal((length, 32)).astype(np.float32) for length in lengths]


def as_set(items: list[np.ndarray]) -> EmbeddingSet:
    return EmbeddingSet.from_arrays([str(index) for index in range(len(items))], items)


def test_scores_by_hand():
    scores = maxsim(QUERIES, DOCUMENTS)
    assert scores.dtype == np.float32
    assert scores.tolist() == EXPECTED


@pytest.mark.parametrize("max_bytes", [1, 100, 200, 1000])
def test_hand_computed_scores_hold_for_any_block(max_bytes):
    assert maxsim(QUERIES, as_set(DOCUMENTS), max_bytes=max_bytes).tolist() == EXPECTED


def test_negative_matches_are_not_lifted_to_zero_by_padding():
    assert maxsim([QUERIES[0]], [DOCUMENTS[1], np.ones((50, 2), np.float32)])[0, 0] == -2


def test_equals_torch_einsum_document_by_document():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    queries, documents = ragged(rng, 17, 1, 40), ragged(rng, 23, 1, 90)
    expected = [
        [
            torch.einsum("qd,td->qt", torch.from_numpy(query), torch.from_numpy(document))
            .amax(dim=1)
            .sum()
            .item()
            for document in documents
        ]
        for query in queries
    ]
    np.testing.assert_allclose(maxsim(queries, documents), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_bytes", [1, 5_000, 20_000, 60_000, 1 << 20])
@pytest.mark.parametrize("stacked", [False, True])
def test_block_size_does_not_change_the_result(max_bytes, stacked):
    rng = np.random.default_rng(2)
    queries, documents = ragged(rng, 9, 0, 12), ragged(rng, 31, 1, 200)
    expected = maxsim(queries, documents, max_bytes=1 << 30)
    if stacked:
        queries, documents = as_set(queries), as_set(documents)
    scores = maxsim(queries, documents, max_bytes=max_bytes)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_accumulated_in_single_precision():
    rng = np.random.default_rng(3)
    queries = [item.astype(np.float16) for item in ragged(rng, 3, 5, 9)]
    documents = [item.astype(np.float16) for item in ragged(rng, 5, 5, 9)]
    widened = maxsim(
        [item.astype(np.float32) for item in queries],
        [item.astype(np.float32) for item in documents],
    )
    np.testing.assert_array_equal(maxsim(queries, documents), widened)
    # 2048 + 1 is 2048 in half precision.
    query = np.ones((2049, 1), np.float16)
    assert maxsim([query], [np.ones((1, 1), np.float16)])[0, 0] == 2049


def test_query_without_tokens_scores_zero():
    empty = np.zeros((0, 2), np.float32)
    assert maxsim([empty, QUERIES[0], empty], DOCUMENTS).tolist() == [[0] * 3, EXPECTED[0], [0] * 3]
    assert maxsim([empty], DOCUMENTS).tolist() == [[0] * 3]


def test_document_without_tokens_is_refused():
    with pytest.raises(ValueError, match="Document 1 has no tokens"):
        maxsim(QUERIES, [DOCUMENTS[0], np.zeros((0, 2), np.float32)])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Queries have 2 dimensions and documents 3"):
        maxsim(QUERIES, [np.ones((1, 3), np.float32)])
    with pytest.raises(ValueError, match=r"Embeddings of document 1 have shape \(2,\)"):
        maxsim(QUERIES, [DOCUMENTS[0], np.ones(2, np.float32)])
    with pytest.raises(ValueError, match="max_bytes is 0"):
        maxsim(QUERIES, DOCUMENTS, max_bytes=0)


@pytest.mark.parametrize("max_bytes", [300_000, 1_000_000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_extra_memory_stays_under_the_limit(max_bytes, dtype):
    rng = np.random.default_rng(4)
    queries = as_set([item.astype(dtype) for item in ragged(rng, 60, 20, 20)])
    items = ragged(rng, 300, 1, 5) + ragged(rng, 60, 100, 400)
    documents = as_set([item.astype(dtype) for item in items])
    tracemalloc.start()
    scores = maxsim(queries, documents, max_bytes=max_bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bookkeeping = 100_000
    assert peak - scores.nbytes < max_bytes + bookkeeping


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
@pytest.mark.parametrize("max_bytes", [30_000, 1 << 22])
def test_stored_embeddings_are_scored_as_they_are_read(precision, max_bytes):
    rng = np.random.default_rng(5)
    queries, documents = ragged(rng, 9, 0, 12), ragged(rng, 31, 1, 200)
    stored = as_set(documents).stored_as(precision)
    expected = maxsim(queries, [item.astype(np.float32) for item in stored], max_bytes=1 << 30)
    scores = maxsim(queries, stored, max_bytes=max_bytes)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_threads_do_not_change_the_result():
    rng = np.random.default_rng(6)
    queries, documents = ragged(rng, 40, 1, 60), ragged(rng, 300, 1, 60)
    expected = maxsim(queries, documents, threads=1)
    np.testing.assert_array_equal(maxsim(queries, documents, threads=4), expected)
    with pytest.raises(ValueError, match="threads is 0"):
        maxsim(queries, documents, threads=0)


def test_an_error_in_a_thread_is_raised():
    class Broken(list):
        def __getitem__(self, index):
            raise OSError("unreadable")

    documents = Broken(ragged(np.random.default_rng(7), 400, 20, 20))
    with pytest.raises(OSError, match="unreadable"):
        maxsim(QUERIES_32, documents, threads=2)


QUERIES_32 = [np.ones((2, 32), np.float32)]


@pytest.mark.parametrize("max_bytes", [5_000, 1 << 22])
def test_pytorch_on_a_device_gives_the_same_scores(max_bytes):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    queries, documents = ragged(rng, 9, 0, 12), as_set(ragged(rng, 31, 1, 200))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        scores = maxsim(queries, documents, max_bytes=max_bytes, device="cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(scores, maxsim(queries, documents), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 3, 40, 511, 600])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_segment_maxima(columns, dtype):
    rng = np.random.default_rng(9)
    for lengths in ([1], [700], [1, 2, 3, 90, 1], [513, 1, 1100]):
        values = (rng.standard_normal((sum(lengths), columns)) * 1000).astype(dtype)
        starts = blocks.starts_of(np.array(lengths))
        out = np.empty((len(lengths), columns), dtype)
        blocks.segment_maxima(values, starts, out)
        parts = np.split(values, starts[1:])
        np.testing.assert_array_equal(out, [part.max(axis=0) for part in parts])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_list_of_long_documents_is_scored_as_when_it_is_stacked(dtype):
    rng = np.random.default_rng(11)
    queries = ragged(rng, 3, 1, 9)
    documents = [item.astype(dtype) for item in ragged(rng, 30, 260, 400)]
    expected = [[(query @ item.T).max(axis=1).sum() for item in documents] for query in queries]
    np.testing.assert_allclose(maxsim(queries, documents), expected, rtol=1e-5)
    np.testing.assert_allclose(maxsim(queries, as_set(documents)), expected, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 4, 16])
def test_the_products_of_all_threads_fit_into_the_memory(threads):
    tokens = [np.ones((4, 8), np.float32)] * 2
    tiling = Tiling.of(tokens, tokens, 2**24, threads)
    assert tiling.threads == threads
    assert threads * _FLOAT * tiling._column_limit**2 <= 2**24
    assert tiling._column_limit == min(1024, math.isqrt(2**24 // (4 * threads)))


@pytest.mark.parametrize("name", ["multiply", "widen"])
def test_the_products_keep_no_memory_and_take_one_thread(name):
    options = products._session(name).get_session_options()
    assert options.enable_cpu_mem_arena is False
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_pytorch_multiplies_in_full_precision_whatever_the_program_has_set(monkeypatch):
    import torch

    seen, reduce = [], torch.segment_reduce

    def spy(*arguments, **settings):
        seen.append(torch.get_float32_matmul_precision())
        return reduce(*arguments, **settings)

    monkeypatch.setattr(torch, "segment_reduce", spy)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        columns = blocks.TorchColumns(np.eye(2, dtype=np.float32), "cpu")
        rows = np.array([[1, 4], [3, 2], [0, 5]], np.float32)
        np.testing.assert_array_equal(
            columns.best(rows, np.array([0, 2]), np.empty(0, np.float32)), [[3, 4], [0, 5]]
        )
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "medium")
    finally:
        torch.set_float32_matmul_precision(before)
