from __future__ import annotations

import numpy as np
import pytest

from colport.scoring.forms import pool_tokens


def tokens(count: int, seed: int = 0, dim: int = 128) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def pooled_by_colpali_engine(values: np.ndarray, factor: int) -> np.ndarray:
    torch = pytest.importorskip("torch")
    pooling = pytest.importorskip("colpali_engine.compression.token_pooling")
    pooler = pooling.HierarchicalTokenPooler()
    return pooler.pool_embeddings([torch.from_numpy(values)], pool_factor=factor)[0].numpy()


@pytest.mark.parametrize("count", [2, 3, 5, 64, 200])
@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_equals_colpali_engine(count, factor):
    values = tokens(count)
    found = pool_tokens(values, factor)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pooled_by_colpali_engine(values, factor), atol=1e-6)


def test_equals_colpali_engine_on_groups_of_tokens_that_are_not_of_length_one():
    rng = np.random.default_rng(1)
    groups = np.repeat(tokens(20), 10, axis=0) * rng.uniform(0.5, 2, (200, 1))
    values = (groups + rng.normal(0, 0.02, groups.shape)).astype(np.float32)
    found = pool_tokens(values, 5)
    assert found.shape == (40, 128)
    np.testing.assert_allclose(found, pooled_by_colpali_engine(values, 5), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_tokens_that_are_alike_become_one():
    first, second = np.eye(2, 8, dtype=np.float32)
    found = pool_tokens(np.stack([first, second, first, second]), 2)
    assert {tuple(row) for row in found.tolist()} == {tuple(first), tuple(second)}


def test_few_tokens_and_other_types():
    for count in (0, 1):
        assert pool_tokens(tokens(count), 3).shape == (count, 128)
    assert pool_tokens(tokens(2), 5).shape == (1, 128)
    half = tokens(40).astype(np.float16)
    assert pool_tokens(half, 2).dtype == np.float16


def test_wrong_arguments():
    with pytest.raises(ValueError, match="factor is 0"):
        pool_tokens(tokens(4), 0)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        pool_tokens(np.ones(4, np.float32), 2)
