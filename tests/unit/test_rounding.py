"""Rounding of weights against GPTQ as it is published, one row after the other."""

import numpy as np
import pytest

from colport.quantize.rounding import Curvature, gptq, nearest


def activations(inputs, seed=0):
    """Correlated, and of very different size."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs // 4)) @ rng.standard_normal((inputs // 4, inputs))
    size = np.exp(rng.standard_normal(inputs))
    return (rng.standard_normal((2 * inputs, inputs)) @ mixing * size).astype(np.float32)


def gram_of(values):
    return values.T @ values / len(values)


def by_elimination(weights, scales, gram, low, high):
    """Algorithm 1 of arXiv:2210.17323 without its blocks and without a Cholesky factor.

    After each row the inverse of the Hessian loses it, as in Optimal Brain Quantization.
    """
    order = np.argsort(-gram.diagonal(), kind="stable")
    damped = gram.astype(np.float64) + 0.01 * gram.diagonal().mean() * np.eye(len(gram))
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    left, scales = weights[order].astype(np.float64), scales[order]
    found = np.empty_like(left)
    for row in range(len(left)):
        found[row] = np.clip(np.rint(left[row] / scales[row]), low, high)
        error = (left[row] - found[row] * scales[row]) / inverse[row, row]
        left[row + 1 :] -= np.outer(inverse[row + 1 :, row], error)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    result = np.empty_like(found)
    result[order] = found
    return result


@pytest.mark.parametrize("inputs", [20, 128, 300])
@pytest.mark.parametrize("blocks", [False, True], ids=["a scale a column", "a scale a block"])
def test_gptq_is_the_published_one(inputs, blocks):
    """Of 20 and more inputs some are in another block than those that make up for them."""
    rng = np.random.default_rng(inputs)
    weights = rng.standard_normal((inputs, 12)).astype(np.float32)
    rows = -(-inputs // 10) if blocks else 1
    steps = rng.uniform(0.1, 0.4, (rows, 12)).astype(np.float32)
    scales = np.repeat(steps, 10, axis=0)[:inputs] if blocks else steps
    gram = gram_of(activations(inputs))
    found = gptq(weights / scales, scales, Curvature.of(gram.copy()), -7, 7)
    whole = np.broadcast_to(scales, weights.shape)
    expected = by_elimination(weights, whole, gram, -7, 7)
    assert np.array_equal(found, np.rint(found))
    assert np.abs(found).max() <= 7
    assert np.mean(found != expected) < 0.01  # float32 beside float64
    assert np.mean(nearest(weights / scales, -7, 7) != expected) > 0.3


def test_what_is_gained_does_not_end_with_a_block():
    values = activations(384, seed=1)
    weights = np.random.default_rng(2).standard_normal((384, 16)).astype(np.float32)
    scales = np.abs(weights).max(axis=0) / 7

    def loss(integers):
        return np.square(values @ (weights - integers * scales)).mean()

    best = gptq(weights / scales, scales, Curvature.of(gram_of(values)), -7, 7)
    assert loss(best) < 0.05 * loss(nearest(weights / scales, -7, 7))


def test_the_factor_is_that_of_the_damped_matrix():
    gram = gram_of(activations(30))
    found = Curvature.of(gram.copy())
    assert list(found.order) == sorted(range(30), key=lambda row: -gram[row, row])[::-1]
    ordered = gram[np.ix_(found.order, found.order)].astype(np.float64)
    damped = ordered + 0.01 * ordered.diagonal().mean() * np.eye(30)
    assert np.array_equal(found.factor, np.tril(found.factor))
    assert (found.factor.diagonal() == 1).all()
    inverse = np.linalg.inv(found.factor.astype(np.float64))
    diagonal = inverse @ damped @ inverse.T
    assert np.abs(diagonal - np.diag(diagonal.diagonal())).max() < 1e-3 * diagonal.max()


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_independent_activations_and_none_at_all_round_to_the_nearest(scale):
    weights = np.random.default_rng(4).standard_normal((150, 6)).astype(np.float32) * 4
    curvature = Curvature.of(scale * np.eye(150, dtype=np.float32))
    assert np.isfinite(curvature.factor).all()
    one = np.ones((1, 6), np.float32)
    np.testing.assert_array_equal(gptq(weights, one, curvature, -7, 7), nearest(weights, -7, 7))


def test_nearest_stays_within_its_limits():
    found = nearest(np.array([-9.2, -7.6, -0.4, 0.6, 6.4, 99.0]), -7, 6)
    assert found.tolist() == [-7, -7, 0, 1, 6, 6]
