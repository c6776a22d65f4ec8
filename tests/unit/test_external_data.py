"""Where weights lie in each layout, byte by byte, on graphs of a few tensors."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from colport.base.errors import ArtifactError, ConfigError, ExportError
from colport.tensors import external_data, streaming
from colport.tensors.external_data import Layout
from colport.tensors.streaming import StreamedTensor

RNG = np.random.default_rng(0)
TENSORS = {  # bytes
    "inline": RNG.random(255, np.float32),  # 1020
    "least": RNG.random(256, np.float32),  # 1024
    "odd": RNG.random(333, np.float32),  # 1332
    "large": RNG.random((128, 128), np.float32),  # 65536
    "larger": RNG.random((150, 200), np.float32),  # 120000
    "half": RNG.random((40, 50)).astype(np.float16),  # 4000
    "whole": np.arange(999, dtype=np.int64),  # 7992
}
SHARED = ("least", "larger")


def model(names, tensors=TENSORS):
    kinds = {name: helper.np_dtype_to_tensor_dtype(tensors[name].dtype) for name in names}
    made = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}.out"]) for name in names],
        "graph",
        [],
        [helper.make_tensor_value_info(f"{name}.out", kinds[name], None) for name in names],
        [numpy_helper.from_array(tensors[name], name) for name in names],
    )
    opset = [helper.make_opsetid("", 21)]
    return ir.serde.deserialize_model(helper.make_model(made, opset_imports=opset, ir_version=10))


def two():
    return {"text": model(TENSORS), "image": model(SHARED)}


def places(file):
    """Tensor to file, offset and length, as onnx itself reads them."""
    found = onnx.load(file, load_external_data=False)
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in found.graph.initializer
        if tensor.external_data
    }


def check_values(folder, names=TENSORS):
    for name, held in (("text", names), ("image", SHARED)):
        found = {
            t.name: numpy_helper.to_array(t)
            for t in onnx.load(folder / f"{name}.onnx").graph.initializer
        }
        assert found.keys() == set(held)
        for key, value in found.items():
            np.testing.assert_array_equal(value, TENSORS[key])


@pytest.fixture(params=[2**26, 1000], ids=["at once", "in blocks"])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", request.param)


def test_large_tensors_start_on_a_page_and_others_on_a_cache_line(block_bytes, tmp_path):
    """Else they cannot be mapped: a mapping begins at a page."""
    assert external_data.write(two(), tmp_path, Layout()) == ["weights.onnx_data"]
    found = places(tmp_path / "text.onnx")
    assert set(found) == set(TENSORS) - {"inline"}
    offsets = {name: int(entry["offset"]) for name, entry in found.items()}
    # One behind the other, each at the next multiple of 64 bytes, or of 4096 from 64 KiB on.
    assert offsets == {
        **{"least": 0, "odd": 1024, "large": 4096, "larger": 4096 + 65536},
        **{"half": 69632 + 120000, "whole": 189632 + 4032},
    }
    assert {name: int(entry["length"]) for name, entry in found.items()} == {
        name: TENSORS[name].nbytes for name in found
    }
    content = (tmp_path / "weights.onnx_data").read_bytes()
    assert len(content) == offsets["whole"] + TENSORS["whole"].nbytes
    assert set(content[1024 + 1332 : 4096]) == {0}
    check_values(tmp_path)


def test_a_tensor_of_two_graphs_is_written_once(tmp_path):
    external_data.write(two(), tmp_path, Layout())
    text, image = (places(tmp_path / f"{name}.onnx") for name in ("text", "image"))
    assert image == {name: text[name] for name in SHARED}


def test_one_name_is_one_tensor(tmp_path):
    other = {"odd": TENSORS["odd"][:-1]}
    models = {"text": model(TENSORS), "image": model(["odd"], other)}
    with pytest.raises(ExportError, match="initializer 'odd' differs between the graphs"):
        external_data.write(models, tmp_path, Layout())
    kinds = {"odd": TENSORS["odd"].view(np.int32)}
    models = {"text": model(TENSORS), "image": model(["odd"], kinds)}
    with pytest.raises(ExportError, match="initializer 'odd' differs between the graphs"):
        external_data.write(models, tmp_path, Layout())


def test_shards_are_as_large_as_they_may_be(block_bytes, tmp_path):
    limit = TENSORS["larger"].nbytes
    files = external_data.write(two(), tmp_path, Layout("shard", limit))
    assert files == [f"weights-0000{n}-of-00003.onnx_data" for n in (1, 2, 3)]
    found = places(tmp_path / "text.onnx")
    assert [entry["location"] for entry in found.values()] == [
        *[files[0]] * 3,
        files[1],
        *[files[2]] * 2,
    ]
    assert found["larger"]["offset"] == found["half"]["offset"] == "0"
    assert (tmp_path / files[1]).stat().st_size == limit
    check_values(tmp_path)


def test_the_gaps_of_a_shard_count(tmp_path):
    """Two tensors of 1332 bytes: the second starts at 1344."""
    tensors = {"a": TENSORS["odd"], "b": TENSORS["odd"] + 1}
    for limit, count in ((2676, 1), (2675, 2)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        files = external_data.write(
            {"text": model(tensors, tensors)}, folder, Layout("shard", limit)
        )
        assert len(files) == count
        assert max((folder / file).stat().st_size for file in files) <= limit


def test_a_tensor_above_the_limit_is_refused(tmp_path):
    limit = TENSORS["larger"].nbytes - 1
    with pytest.raises(ExportError, match=f"{limit} is below tensor 'larger' of 120000 bytes"):
        external_data.write(two(), tmp_path, Layout("shard", limit))


def test_a_merged_graph_holds_its_weights(tmp_path):
    assert external_data.write(two(), tmp_path, Layout("merge")) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.onnx", "text.onnx"]
    assert places(tmp_path / "text.onnx") == {}
    check_values(tmp_path)


def test_a_merged_graph_has_room_for_its_nodes(tmp_path, monkeypatch):
    weights = sum(value.nbytes for value in TENSORS.values())
    monkeypatch.setattr(external_data, "PROTOBUF_LIMIT", weights + 2**24)
    external_data.write(two(), tmp_path, Layout("merge"))
    monkeypatch.setattr(external_data, "PROTOBUF_LIMIT", weights + 2**24 - 1)
    with pytest.raises(ExportError, match=r"text.onnx: layout 'merge' needs 0.00 GiB in one file"):
        external_data.write(two(), tmp_path, Layout("merge"))


@pytest.mark.parametrize("layout", [Layout(), Layout("shard", 200_000), Layout("merge")])
def test_progress_ends_at_all_that_is_written(block_bytes, layout, tmp_path):
    seen = []
    external_data.write(two(), tmp_path, layout, lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    beside = [value.nbytes for name, value in TENSORS.items() if name != "inline"]
    merged = [*beside, 1020, *(TENSORS[name].nbytes for name in SHARED)]
    assert set(totals) == {sum(merged if layout.layout == "merge" else beside)}
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


def test_half_bytes_and_streams_are_written_as_they_are(tmp_path):
    packed = np.random.default_rng(1).integers(0, 16, (64, 40)).astype(np.uint8)
    values = {
        "four": ir.Tensor(packed.astype(ir.DataType.UINT4.numpy()), dtype=ir.DataType.UINT4),
        "stream": StreamedTensor(
            lambda: iter([TENSORS["large"][:100], TENSORS["large"][100:]]),
            *(ir.DataType.FLOAT, (128, 128), "stream"),
        ),
    }
    nodes = [
        ir.node("Identity", [ir.Value(name=name, const_value=v)]) for name, v in values.items()
    ]
    for name, node in zip(values, nodes, strict=True):
        value = node.inputs[0]
        value.shape, value.type = values[name].shape, ir.TensorType(values[name].dtype)
        values[name].name = name
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        [],
        outputs,
        nodes=nodes,
        initializers=[n.inputs[0] for n in nodes],
        name="g",
        opset_imports={"": 21},
    )
    external_data.write({"text": ir.Model(graph, ir_version=10)}, tmp_path, Layout())
    content = (tmp_path / "weights.onnx_data").read_bytes()
    halves = packed.reshape(-1, 2)
    assert content[:1280] == (halves[:, 0] | halves[:, 1] << 4).tobytes()
    assert content[4096:] == TENSORS["large"].tobytes()


def test_rows_are_read_where_a_tensor_lies(block_bytes, tmp_path):
    external_data.write(two(), tmp_path, Layout())
    stored = ir.load(tmp_path / "text.onnx").graph.initializers
    for name, values in TENSORS.items():
        tensor = stored[name].const_value
        np.testing.assert_array_equal(streaming.stored_rows(tensor, 3, 40), values[3:40])
        blocks = [block.ravel() for block in streaming.stored_blocks(tensor)]
        np.testing.assert_array_equal(np.concatenate(blocks), values.ravel())


def test_a_name_without_a_tensor_is_refused():
    models = two()
    models["image"].graph.initializers["least"].const_value = None
    with pytest.raises(ExportError, match="initializer 'least' has no value"):
        external_data.tensors_by_name(models)


def test_a_stream_that_ends_early_is_no_tensor(tmp_path):
    models = {"text": model(["large"])}
    short = StreamedTensor(
        lambda: iter([TENSORS["large"][:127]]), ir.DataType.FLOAT, (128, 128), "large"
    )
    models["text"].graph.initializers["large"].const_value = short
    with pytest.raises(ExportError, match="tensor 'large' wrote 65024 bytes, expected 65536"):
        external_data.write(models, tmp_path, Layout())


def test_weights_that_lack_a_byte_are_refused(tmp_path):
    external_data.write(two(), tmp_path, Layout())
    external_data.read(tmp_path / "text.onnx")
    weights = tmp_path / "weights.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"is truncated; tensor 'whole' is at bytes 193664 to"):
        external_data.read(tmp_path / "text.onnx")
    external_data.read(tmp_path / "image.onnx")  # its tensors are all there
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"weights.onnx_data: is missing"):
        external_data.read(tmp_path / "image.onnx")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("whole", None), "layout: found 'whole'; allowed are split, merge, shard"),
        (("shard", None), "max_shard_bytes: is needed for layout 'shard', and only there"),
        (("split", 10), "max_shard_bytes: is needed for layout 'shard', and only there"),
    ],
)
def test_layouts_that_cannot_be(given, message):
    with pytest.raises(ConfigError, match=message):
        Layout(*given)


def test_a_layout_is_one_file_by_default():
    assert Layout() == Layout("split")
