from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from colport.base.errors import ArtifactError
from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings

ITEMS = [np.arange(6).reshape(2, 3), np.zeros((0, 3)), np.arange(6, 15).reshape(3, 3)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "shards" / "0.safetensors"
    items = [item.astype(dtype) for item in ITEMS]
    write_embeddings(path, ["a", "ü", "c"], items, {"model": "demo"})
    stored = read_embeddings(path)
    assert stored.ids == ("a", "ü", "c")
    assert stored.metadata == {"model": "demo"}
    assert stored.lengths.tolist() == [2, 0, 3]
    assert stored.offsets.tolist() == [0, 2, 2, 5]
    assert stored.values.dtype == dtype
    assert isinstance(stored.values, np.memmap)
    assert len(stored) == 3
    for found, expected in zip(stored, items, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(stored[-1], items[2])
    assert [name.name for name in path.parent.iterdir()] == ["0.safetensors"]


def test_items_end(tmp_path):
    items = EmbeddingSet.from_arrays(["a", "b"], [np.full((1, 2), n, np.float32) for n in (3, 4)])
    assert [float(items[index][0, 0]) for index in (0, 1, -1, -2)] == [3, 4, 4, 3]
    for index in (2, -3):
        with pytest.raises(IndexError):
            items[index]


def test_only_empty_items(tmp_path):
    path = tmp_path / "empty.safetensors"
    write_embeddings(path, ["a"], [np.zeros((0, 3), np.float32)], {})
    assert read_embeddings(path)[0].shape == (0, 3)


def test_non_finite_embeddings_are_not_written(tmp_path):
    path = tmp_path / "x.safetensors"
    broken = np.array([[1, np.nan]], np.float32)
    with pytest.raises(ArtifactError, match="Embeddings of 'page-7' hold NaN or infinity"):
        write_embeddings(path, ["page-7"], [broken], {})
    assert not path.exists()


@pytest.mark.parametrize(
    ("ids", "items", "message"),
    [
        (["a"], [], "1 ids for 0 embeddings"),
        (["a", "a"], [np.ones((1, 2), np.float32)] * 2, "not unique"),
        (["a"], [np.ones((1, 2))], "Embeddings are float64"),
        (
            ["a", "b"],
            [np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)],
            r"Embeddings of 'b' are float32\[1, 3\]; allowed are float32\[tokens, 2\]",
        ),
        (
            ["a", "b"],
            [np.ones((1, 2), np.float32), np.ones((1, 2), np.float16)],
            r"Embeddings of 'b' are float16\[1, 2\]; allowed are float32\[tokens, 2\]",
        ),
    ],
)
def test_wrong_arguments(tmp_path, ids, items, message):
    with pytest.raises(ValueError, match=message):
        write_embeddings(tmp_path / "x", ids, items, {})


def test_reserved_metadata(tmp_path):
    with pytest.raises(ValueError, match=r"\['ids'\] are reserved"):
        write_embeddings(tmp_path / "x", ["a"], [np.ones((1, 2), np.float32)], {"ids": "x"})


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="embeddings cannot be read"):
        read_embeddings(tmp_path / "none.safetensors")


def test_truncated_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_embeddings(path, ["a"], [np.ones((100, 2), np.float32)], {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is not an embeddings file"):
        read_embeddings(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ArtifactError, match="is not an embeddings file"):
        read_embeddings(path)


VALUES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"lengths": [1, 2]}, {}, "embeddings"),
        ({"embeddings": VALUES}, {}, "lengths"),
        ({"embeddings": VALUES, "lengths": [1, 2]}, {"ids": "["}, "is not an embeddings file"),
        ({"embeddings": VALUES.astype("f8"), "lengths": [1, 2]}, {}, "embeddings is F64"),
        ({"embeddings": VALUES, "lengths": [1, 3]}, {}, "2 lengths of 4 tokens in all"),
        ({"embeddings": VALUES, "lengths": [3]}, {}, "2 ids, 1 lengths"),
        ({"embeddings": VALUES, "lengths": [1, 2]}, {"schema_version": "0"}, "version is '0'"),
    ],
)
def test_contradictory_file(tmp_path, tensors, metadata, message):
    path = tmp_path / "x.safetensors"
    arrays = {
        name: np.array(value, np.int32) if name == "lengths" else value
        for name, value in tensors.items()
    }
    save_file(arrays, path, {"ids": json.dumps(["a", "b"]), "schema_version": "1", **metadata})
    with pytest.raises(ArtifactError, match=message):
        read_embeddings(path)


def floats(count: int, dim: int) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((count, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "dtype", "size"),
    [("float32", "f4", 512), ("float16", "f2", 256), ("int8", "i1", 130), ("binary", "u1", 16)],
)
def test_precisions(tmp_path, precision, dtype, size):
    path, values = tmp_path / "x.safetensors", floats(30, 128)
    write_embeddings(path, ["a", "b"], [values[:10], values[10:]], {})
    read = read_embeddings(path)
    assert isinstance(read.values, np.memmap)
    stored = read.stored_as(precision)
    assert stored.precision == precision
    assert stored.values.dtype == dtype
    assert stored.dim == 128
    assert stored.bytes_per_item == 15 * size
    assert [item.shape for item in stored] == [(10, 128), (20, 128)]
    np.testing.assert_array_equal(stored.tokens(10, 30), stored[1])
    found = stored[1].astype(np.float32)
    if precision == "binary":
        np.testing.assert_array_equal(np.sign(found), np.sign(values[10:]))
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    else:
        # Half a step of the largest value; the scale itself has 11 bits.
        bound = {"float32": 0, "float16": 2**-11, "int8": 0.5 / 127 + 2**-10}[precision]
        errors = np.abs(found - values[10:]).max(axis=1)
        assert (errors <= bound * np.abs(values[10:]).max(axis=1)).all()


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_halves_zeros_and_no_tokens_can_be_quantized(precision):
    values = np.vstack([np.zeros((1, 8)), np.full((1, 8), 1e-7), floats(2, 8)]).astype(np.float16)
    items = EmbeddingSet.from_arrays(["a", "b"], [values, values[:0]]).stored_as(precision)
    assert [len(item) for item in items] == [4, 0]
    assert all(item.dtype == np.float32 for item in items)
    assert np.isfinite(items[0]).all()
    if precision == "int8":
        np.testing.assert_allclose(items[0], values, atol=0.005)


def test_precisions_that_cannot_be(tmp_path):
    items = EmbeddingSet.from_arrays(["a"], [floats(3, 12)])
    with pytest.raises(ValueError, match="precision is 'int4'; allowed are float32, float16, int8"):
        items.stored_as("int4")
    with pytest.raises(ValueError, match="dim is 12; binary needs a multiple of 8"):
        items.stored_as("binary")
    assert items.stored_as("float32") is items
    with pytest.raises(ValueError, match="Embeddings are int8; only floats"):
        items.stored_as("int8").stored_as("float16")
