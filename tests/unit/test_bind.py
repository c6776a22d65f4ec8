"""Weights that are bound to a traced graph: cast, transposed, computed, and refused."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from colport.base.errors import CheckpointError, ExportError
from colport.export import bind
from colport.tensors import streaming

RNG = np.random.default_rng(0)


class Entry:
    """A tensor of a checkpoint."""

    file, key = "model.safetensors", "a.key"

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape, self.nbytes = self.values.shape, self.values.nbytes
        self.reads = []

    def read(self):
        return self.values

    def read_rows(self, start, stop):
        self.reads.append((start, stop))
        return self.values[start:stop]


def skeleton(sources=None, constants=None):
    return SimpleNamespace(tensors=sources or {}, constants=constants or {})


def bound(nodes, inputs, weights, constants=None):
    """The graph's outputs with its weights inside, and with weights that were bound to it."""
    made = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(name, 1, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [
            numpy_helper.from_array(value, name)
            for name, value in (weights | (constants or {})).items()
        ],
    )
    opset = [helper.make_opsetid("", 21)]
    proto = helper.make_model(made, opset_imports=opset, ir_version=10)

    def run(proto):
        options = {"providers": ["CPUExecutionProvider"]}
        session = onnxruntime.InferenceSession(proto.SerializeToString(), **options)
        return session.run(None, inputs)[0]

    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    for name in weights:
        model.graph.initializers[name].const_value = None
    bind.store_transposed(model)
    bind.compute_vectors(model)
    bind.attach(model, skeleton({name: Entry(value) for name, value in weights.items()}))
    return run(proto), run(ir.serde.serialize_model(model)), model


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_what_a_graph_computes_from_its_own_constants_is_left_alone():
    nodes = [
        helper.make_node("Add", ["c", "one"], ["scale"]),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    one = np.ones((), np.float32)
    expected, found, model = bound(nodes, {"x": random(3, 4)}, {}, {"c": random(4), "one": one})
    np.testing.assert_array_equal(found, expected)
    assert [node.op_type for node in model.graph] == ["Add", "Mul"]


def test_a_transposed_weight_is_stored_as_it_is_read():
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    expected, found, model = bound(nodes, {"x": random(3, 4)}, {"w": random(5, 4)})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert list(model.graph.initializers) == ["w^T"]


@pytest.mark.parametrize(("shape", "perm"), [((4, 5), [0, 1]), ((2, 5, 4), [0, 2, 1])])
def test_a_weight_whose_axes_change_otherwise_is_left_as_it_is(shape, perm):
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=perm),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    expected, found, model = bound(nodes, {"x": random(3, 4)}, {"w": random(*shape)})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [node.op_type for node in model.graph] == ["Transpose", "MatMul"]
    assert list(model.graph.initializers) == ["w"]


def test_a_weight_that_is_read_both_ways_is_stored_twice():
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    expected, found, model = bound(nodes, {"x": random(3, 4)}, {"w": random(5, 4)})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(model.graph.initializers) == {"w", "w^T"}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_product_with_a_bias(transposed):
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed, alpha=0.5)]
    weight = random(5, 4) if transposed else random(4, 5)
    expected, found, model = bound(nodes, {"x": random(3, 4)}, {"w": weight, "b": random(5)})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ("w^T" in model.graph.initializers) == bool(transposed)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("strides", [(2, 3), (1, 1)])
def test_a_convolution_over_whole_patches_is_a_product(bias, strides):
    """Of another stride it stays one."""
    weights = {"w": random(6, 3, 2, 3), **({"b": random(6)} if bias else {})}
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["p"]),
        helper.make_node("Conv", ["p", *weights], ["c"], strides=strides),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    shape = {"shape": np.array([-1, 3, 2, 3], np.int64)}
    expected, found, model = bound(nodes, {"x": random(7, 18)}, weights, shape)
    assert found.shape == expected.shape == (7, 6, 1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert ("Conv" in [node.op_type for node in model.graph]) == (strides == (1, 1))


def test_a_convolution_over_other_rows_stays_one():
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"], strides=[2, 3]),
    ]
    shape = {"shape": np.array([-1, 3, 2, 6], np.int64)}
    expected, found, _ = bound(nodes, {"x": random(7, 36)}, {"w": random(6, 3, 2, 3)}, shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_computed_from_a_vector_is_stored():
    """The ``1 + weight`` of a norm, then times a number; the graph only multiplies."""
    nodes = [
        helper.make_node("Add", ["one", "w"], ["a"]),
        helper.make_node("Mul", ["a", "three"], ["b"]),
        helper.make_node("Mul", ["x", "b"], ["c"]),
        helper.make_node("Add", ["c", "w"], ["y"]),
    ]
    constants = {"one": np.float32(1), "three": np.array([3], np.float32)}
    expected, found, model = bound(nodes, {"x": random(3, 8)}, {"w": random(8)}, constants)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [node.op_type for node in model.graph] == ["Mul", "Add"]


def stored(values, dtype, transposed=False):
    return list(bind._stored_blocks(lambda: iter(values), np.dtype(dtype), "a.weight", transposed))


@pytest.mark.parametrize("largest", [65504.0, -65504.0, 65519.0])
def test_the_range_of_half_precision_is_used(largest):
    (found,) = stored([np.array([[largest, 1.0]], np.float32)], np.float16)
    assert found.tolist() == [[np.sign(largest) * 65504, 1]]


@pytest.mark.parametrize("beyond", [65520.0, -70000.0, 3e38])
@pytest.mark.parametrize("block", [0, 1])
def test_a_weight_beyond_it_is_refused(beyond, block):
    """It would be infinite in the exported folder."""
    values = [np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)]
    values[block][1, 0] = beyond
    with pytest.raises(CheckpointError, match=r"weight 'a.weight' has values beyond fp16's range"):
        stored(values, np.float16)
    assert len(stored(values, ml_dtypes.bfloat16)) == len(stored(values, np.float32)) == 2


def test_a_weight_beyond_it_is_refused_by_the_whole_export():
    weight = ir.Value(name="w", shape=ir.Shape([2, 2]), type=ir.TensorType(ir.DataType.FLOAT16))
    entry = Entry(np.array([[1, 2], [3, 1e5]], np.float32))
    tensor = bind._tensor(weight, skeleton({"w": entry}), "text")
    with pytest.raises(CheckpointError, match="beyond fp16's range of 65504"):
        tensor.numpy()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_checkpoint_s_own_value_that_is_not_finite_is_refused(wrong, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 8)
    values = np.ones((6, 2), np.float32)
    values[5, 1] = wrong
    for whole in (False, True):
        with pytest.raises(CheckpointError, match=r"'a.key' holds NaN or infinite values"):
            list(bind._checkpoint_blocks(Entry(values), whole))


def test_a_checkpoint_is_read_in_blocks_unless_it_is_transposed(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 16)
    entry = Entry(random(5, 2))
    found = list(bind._checkpoint_blocks(entry, whole=False))
    assert entry.reads == [(0, 2), (2, 4), (4, 5)]
    np.testing.assert_array_equal(np.concatenate(found), entry.values)
    (whole,) = bind._checkpoint_blocks(entry, whole=True)
    np.testing.assert_array_equal(whole, entry.values)
    (scalar,) = bind._checkpoint_blocks(Entry(np.float32(3)), whole=False)
    assert scalar == 3
    (kernel,) = stored([random(4, 3, 2, 2)], np.float32, transposed=True)
    assert kernel.shape == (12, 4)


def test_constants_are_stored_in_their_type():
    half = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)
    for name, constant, kind in (
        ("half", half, ir.DataType.BFLOAT16),
        ("whole", torch.tensor([3, 4]), ir.DataType.INT64),
    ):
        value = ir.Value(name=name, shape=ir.Shape([2]), type=ir.TensorType(kind))
        tensor = bind._tensor(value, skeleton(constants={name: constant}), "text")
        assert tensor.numpy().astype(float).tolist() == constant.tolist()
        assert tensor.numpy().dtype == kind.numpy()


def test_what_has_no_value_ends_the_export():
    value = ir.Value(name="lost", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    with pytest.raises(ExportError, match="image graph: 'lost' has no value"):
        bind._tensor(value, skeleton(), "image")


def test_a_folded_constant_is_named_after_its_graph():
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["m"]),
        helper.make_node("Add", ["m", "w"], ["y"]),
    ]
    constants = {"two": np.float32(2)}
    _, _, model = bound(nodes, {"x": random(3, 4)}, {"w": random(4)}, constants)
    assert set(model.graph.initializers) == {"w", "text.two"}
