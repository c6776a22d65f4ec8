"""Safetensors headers and tensors, whole and damaged."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from colport.base.errors import CheckpointError
from colport.tensors.weights import TensorIndex, read_header


def test_tensors_are_read_in_their_stored_dtype(tmp_path):
    values = {
        "half": torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16),
        "full": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "scalar": torch.tensor(7, dtype=torch.int64),
    }
    save_file(values, tmp_path / "model.safetensors")
    index = TensorIndex(tmp_path)
    assert sorted(index) == ["full", "half", "scalar"]
    assert index["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(index["half"].read().astype(float), [[1.5, -2.0], [0.25, 3.0]])
    np.testing.assert_array_equal(index["full"].read(), [[0, 1, 2], [3, 4, 5]])
    assert index["scalar"].read().shape == ()
    np.testing.assert_array_equal(index["full"].read_rows(1, 2), [[3, 4, 5]])
    assert index["full"].read_rows(1, 1).shape == (0, 3)


@pytest.mark.parametrize("rows", [6, 7, 8, 9])
def test_parts_of_rows_are_those_of_torch_chunk(rows, tmp_path):
    values = torch.arange(rows * 2.0).reshape(rows, 2)
    save_file({"qkv": values, "next": torch.ones(3)}, tmp_path / "model.safetensors")
    entry = TensorIndex(tmp_path)["qkv"]
    for number, expected in enumerate(torch.chunk(values, 3)):
        part = entry.part(number, 3)
        assert part.shape == tuple(expected.shape)
        assert part.nbytes == expected.nbytes
        assert part.parts == (entry,)
        np.testing.assert_array_equal(part.read(), expected)
        np.testing.assert_array_equal(part.read_rows(1, len(expected)), expected[1:])
    assert entry.part(0, 1) is entry


def test_a_file_that_was_cut_since_is_noticed_at_its_tensor(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, file)
    entry = TensorIndex(tmp_path)["a"]
    file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_array_equal(entry.read_rows(0, 1), [[0, 1, 2]])
    with pytest.raises(CheckpointError, match="tensor 'a' ended after 5 of 6 values"):
        entry.read()


def test_a_tensor_without_rows_has_none_to_read(tmp_path):
    save_file({"none": torch.empty(0, 3), "one": torch.ones(1)}, tmp_path / "model.safetensors")
    entry = TensorIndex(tmp_path)["none"]
    assert entry.read().shape == entry.read_rows(0, 0).shape == (0, 3)


def test_a_tensor_of_another_dtype_is_named_with_it(tmp_path):
    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor 'a' is F8_E4M3; read are F64, F32, F16"):
        TensorIndex(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"])
def test_pickled_weights_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=f"{name}: pickled weights are not read; convert"):
        TensorIndex(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path):
    expected = r"no weights found; expected model\.safetensors or model\.safetensors\.index\.json"
    with pytest.raises(CheckpointError, match=expected):
        TensorIndex(tmp_path)


def test_an_index_without_a_weight_map_is_refused(tmp_path):
    for content in ("{}", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": []}', "no JSON"):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json: is not a safetensors index"):
            TensorIndex(tmp_path)


def test_whole_weights_go_before_shards_as_in_transformers(tmp_path):
    sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    save_file({"c": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(TensorIndex(tmp_path)) == ["c"]


def sharded(folder, weight_map):
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "two.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_one_index(tmp_path):
    sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    index = TensorIndex(tmp_path)
    assert {key: entry.file.name for key, entry in index.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "one.safetensors", "c": "two.safetensors"}, "'c' is not in its shard"),
        ({"a": "../one.safetensors"}, "lies outside the checkpoint folder"),
        ({"a": "three.safetensors"}, "three.safetensors: cannot be read"),
    ],
)
def test_an_index_that_disagrees_is_refused(tmp_path, weight_map, message):
    sharded(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=message):
        TensorIndex(tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(8, dtype=torch.float32)}, file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            TensorIndex(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_header_crashes_the_reader(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content)
    if b"".join(content.split()) == b"{}":
        assert read_header(file) == {}
        return
    with pytest.raises(CheckpointError, match=r"is not a safetensors file|damaged"):
        read_header(file)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.none(),
            st.integers(),
            st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from(["F32", "BF16", "X9"]),
                    "shape": st.lists(st.integers(-2, 10**12), max_size=3),
                    "data_offsets": st.lists(st.integers(-5, 10**12), max_size=3),
                }
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_claimed_layout_crashes_the_reader(tmp_path_factory, header):
    text = json.dumps(header).encode()
    file = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    try:
        entries = read_header(file)
    except CheckpointError:
        return
    for entry in entries.values():
        assert entry.read().shape == entry.shape


def with_header(folder, header, data=bytes(64)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def tensor(begin, end, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "nested too deeply": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of too many digits": b'{"a":' + b"9" * 5000 + b"}",
    "a key twice": b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 8)).encode(),) * 2),
    "no number": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "an infinite number": b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}',
    "half a number": {"a": tensor(0, 8, [2.5])},
    "a truth value": {"a": tensor(False, 8)},
    "a product that wraps": {"a": tensor(0, 0, [2**32, 2**32])},
    "a number beyond 64 bits": {"a": tensor(0, 2**70, [2**68])},
    "overlapping tensors": {"a": tensor(0, 8), "b": tensor(4, 12)},
    "the same place twice": {"a": tensor(0, 8), "b": tensor(0, 8)},
    "a gap": {"a": tensor(0, 8), "b": tensor(16, 24)},
    "a list as a type": {"a": tensor(0, 8) | {"dtype": ["F32"]}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_made_to_harm(name, tmp_path):
    file = with_header(tmp_path, HEADERS[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_header(file)


def test_a_header_of_an_absurd_size_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**26))
        stream.truncate(2**27)
    with pytest.raises(CheckpointError, match="is not a safetensors file or is truncated"):
        read_header(file)


def test_tensors_side_by_side_are_read_in_any_order(tmp_path):
    file = with_header(
        tmp_path, {"b": tensor(8, 16), "empty": tensor(8, 8, [0]), "a": tensor(0, 8)}
    )
    assert {key: entry.read().shape for key, entry in read_header(file).items()} == {
        "a": (2,),
        "b": (2,),
        "empty": (0,),
    }
