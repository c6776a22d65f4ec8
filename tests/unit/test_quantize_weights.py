"""Integer weights by themselves: what each form promises of every value, block by block."""

import numpy as np
import onnx_ir as ir
import pytest

from colport.quantize.blocks import blockwise, rounded
from colport.quantize.rounding import Curvature, gptq
from colport.quantize.weights import Matrix, column_sums, per_channel, per_row
from colport.tensors import streaming


@pytest.fixture(params=[2**26, 600], ids=["at once", "in blocks"])
def block_bytes(request, monkeypatch):
    """Weights that are streamed come in several blocks of rows."""
    monkeypatch.setattr(streaming, "BLOCK_BYTES", request.param)


def weights(inputs, outputs, seed=0):
    """Columns and rows of very different size, some of one sign, one of zeros."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((inputs, outputs)) * np.exp(rng.standard_normal(outputs))
    values *= np.exp(rng.standard_normal((inputs, 1)))
    values[:, 0] = 0
    values[:, 1] = -np.abs(values[:, 1])
    values[:, 2] = 1 + np.abs(values[:, 2])
    return values.astype(np.float32)


def matrix(values, factors=None):
    return Matrix(ir.tensor(values), factors)


def stored(tensor):
    found = tensor.numpy()
    assert found.shape == tuple(tensor.shape)
    return found


def of_identity(size):
    return Curvature.of(np.eye(size, dtype=np.float32))


def gram(inputs, seed=5):
    values = np.random.default_rng(seed).standard_normal((40, inputs)).astype(np.float32)
    return values.T @ values / 40


@pytest.mark.parametrize("curved", [False, True])
def test_columns_have_a_scale_each(block_bytes, curved):
    values = weights(50, 7)
    factors = np.linspace(0.5, 2, 50, dtype=np.float32)
    curvature = of_identity(50) if curved else None
    found = per_channel(matrix(values, factors), "w", exact=False, curvature=curvature)
    integers, scales = map(stored, found)
    assert [tensor.name for tensor in found] == ["w@int8", "w@scale"]
    assert (integers.dtype, scales.shape) == (np.int8, (7,))
    scaled = values * factors[:, None]
    assert (np.abs(integers * scales - scaled) <= scales / 2 * 1.0001).all()
    used = np.abs(integers.astype(int)).max(axis=0)
    assert used[0] == 0
    assert len(set(used[1:])) == 1  # each column reaches the same last step
    np.testing.assert_allclose(used[1:] * scales[1:], np.abs(scaled).max(axis=0)[1:], rtol=1e-5)


def test_columns_are_rounded_by_the_curvature(block_bytes):
    values = weights(40, 6)
    correlated = gram(40)
    found = per_channel(matrix(values), "w", exact=False, curvature=Curvature.of(+correlated))
    integers, scales = map(stored, found)
    limit = int(np.abs(integers.astype(int)).max())
    expected = gptq(values / scales, scales, Curvature.of(+correlated), -limit, limit)
    np.testing.assert_array_equal(integers, expected)
    plain = stored(per_channel(matrix(values), "w", exact=False)[0])
    assert np.mean(plain != integers) > 0.2


def test_rows_of_a_table_have_a_scale_each(block_bytes):
    values = weights(60, 9).T
    integers, scales = map(stored, per_row(matrix(np.ascontiguousarray(values)), "t"))
    assert scales.shape == (9, 1)
    assert (np.abs(integers * scales - values) <= scales / 2 * 1.0001).all()
    used = np.abs(integers.astype(int)).max(axis=1)
    assert used[0] == 0
    assert len(set(used[1:])) == 1


def test_a_matrix_is_read_with_its_factors(block_bytes):
    values, factors = weights(50, 7), np.arange(50, dtype=np.float32)
    found = matrix(values, factors)
    np.testing.assert_array_equal(found.whole(), values * factors[:, None])
    places = [place for place, _ in found.blocks()]
    assert [place.start for place in places] == [0, *(place.stop for place in places[:-1])]
    assert places[-1].stop == 50


@pytest.mark.parametrize("bias", [None, np.arange(7, dtype=np.float32)])
def test_sums_of_columns(block_bytes, bias):
    values = weights(50, 7)
    stored_bias = None if bias is None else ir.tensor(bias)
    found = stored(column_sums(matrix(values), np.float32(-0.25), stored_bias, "b"))
    expected = -0.25 * values.astype(np.float64).sum(axis=0) + (0 if bias is None else bias)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def read(tensors, bits, inputs):
    """What ``MatMulNBits`` computes with, by its documented layout, ``[inputs, outputs]``."""
    packed, scales, *zero_points = map(stored, tensors)
    outputs, blocks, _ = packed.shape

    def halves(values):
        return np.stack([values & 15, values >> 4], axis=-1).reshape(outputs, -1)

    codes = (packed if bits == 8 else halves(packed)).reshape(outputs, blocks, -1).astype(float)
    middle = halves(zero_points[0])[:, :blocks] if bits == 4 else np.full((outputs, blocks), 128)
    values = (codes - middle[..., None]) * scales[..., None]
    return values.reshape(outputs, -1)[:, :inputs].T, scales


@pytest.mark.parametrize("inputs", [64, 80])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_hold_the_nearest_values(block_bytes, bits, inputs):
    values = weights(inputs, 9)
    tensors = blockwise(matrix(values), "w", bits, 16)
    found, scales = read(tensors, bits, inputs)
    step = np.repeat(scales, 16, axis=1)[:, :inputs].T
    one_sign = np.abs(found - values)[:, :3] <= step[:, :3] / 2 * 1.0001
    assert one_sign.all()  # zero is the range's end: nothing is cut off
    # Where a range has both signs, the zero point is rounded, too.
    assert (np.abs(found - values) <= step * (1.0001 if bits == 4 else 0.50001)).all()
    np.testing.assert_allclose(found, rounded(values, bits, 16), atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_block_of_one_sign_keeps_its_values(bits, sign):
    """Between 1 and 2: without zero in the range the zero point could not be stored."""
    values = sign * np.linspace(1, 2, 64, dtype=np.float32).reshape(32, 2)
    found = rounded(values, bits, 32)
    assert np.abs(found - values).max() <= (1.0001 * 2 / 15 / 2 if bits == 4 else 0.02)
    assert set(np.sign(found).ravel()) == {sign}


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits):
    values = weights(48, 8)
    values[::3] = 0
    assert (rounded(values, bits, 16)[::3] == 0).all()
    assert (rounded(np.zeros((16, 4), np.float32), bits, 16) == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_rounded_by_the_curvature(block_bytes, bits):
    values, correlated = weights(40, 9), gram(40)

    def loss(found):
        return np.einsum("io,ij,jo->", found - values, correlated, found - values)

    nearest, scales = read(blockwise(matrix(values), "w", bits, 16), bits, 40)
    independent, _ = read(blockwise(matrix(values), "w", bits, 16, of_identity(40)), bits, 40)
    np.testing.assert_array_equal(independent, nearest)
    tensors = blockwise(matrix(values), "w", bits, 16, Curvature.of(+correlated))
    curved, same = read(tensors, bits, 40)
    np.testing.assert_array_equal(same, scales)
    assert loss(curved) < 0.7 * loss(nearest)
