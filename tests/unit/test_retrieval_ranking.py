"""The best documents are those of the whole score matrix, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colport.scoring.score import BestDocuments


def whole(scores: np.ndarray, ids: list[str], depth: int) -> list[list[tuple[str, float]]]:
    """By Python's own sort of every document."""
    pairs = [list(zip(ids, row.tolist(), strict=True)) for row in scores]
    return [sorted(row, key=lambda pair: (pair[1], pair[0]), reverse=True)[:depth] for row in pairs]


def streamed(
    scores: np.ndarray, ids: list[str], depth: int, cuts: list[int]
) -> list[list[tuple[str, float]]]:
    best = BestDocuments(len(scores), depth)
    for first, last in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        best.add(scores[:, first:last], ids[first:last])
    return best.rankings()


def test_equal_scores_are_ordered_by_descending_id_as_in_trec_eval():
    ids = ["b", "a", "é", "z"]
    scores = np.array([[1, 1, 1, 1], [0, 2, 2, 3]], np.float32)
    for cuts in ([], [2], [1, 2, 3]):
        found = streamed(scores, ids, 3, cuts)
        assert [[name for name, _ in row] for row in found] == [["é", "z", "b"], ["z", "é", "a"]]
    assert [len(row) for row in streamed(scores, ids, 10, [1])] == [4, 4]


@given(
    seed=st.integers(0, 2**32 - 1),
    documents=st.integers(1, 40),
    depth=st.integers(1, 12),
    levels=st.integers(1, 6),
    data=st.data(),
)
def test_shards_change_nothing_ties_across_them_included(seed, documents, depth, levels, data):
    rng = np.random.default_rng(seed)
    ids = [f"d{index}" for index in rng.permutation(documents)]
    scores = rng.integers(0, levels, size=(3, documents)).astype(np.float32) - 1
    cuts = sorted(data.draw(st.lists(st.integers(0, documents), max_size=8)))
    assert streamed(scores, ids, depth, cuts) == whole(scores, ids, depth)


@pytest.mark.parametrize("shards", [10, 40])
def test_what_is_kept_does_not_grow(shards):
    rng = np.random.default_rng(0)
    best = BestDocuments(4, 5)
    for shard in range(shards):
        ids = [f"{shard}/{index}" for index in range(100)]
        best.add(rng.random((4, 100), np.float32), ids)
    assert len(best._ids) <= 4 * 5
    assert best._scores.shape == best._places.shape == (4, 5)
