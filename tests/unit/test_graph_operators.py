"""Repeated layers are a whole trace's; graphs are written in their operator set's operators."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from PIL import Image

from colport import Encoder
from colport.export import trace as tracing
from colport.export.folder import export
from colport.export.operators import keep_sums_apart, write_operators
from colport.export.operators.normalisation import write_rms_normalisation
from colport.export.operators.rotary import write_rotary_embedding
from colport.tensors import editing

FAMILIES = ("colbert", "colpali", "colqwen2")
TEXTS = ["a red pie chart", "", "which page shows the longest of all bars, and where?"]


def embeddings(folder):
    encoder = Encoder(folder)
    rng = np.random.default_rng(0)
    sizes = ((300, 200), (90, 260), (200, 200))
    pages = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    documents = pages if encoder.document_type == "pages" else TEXTS
    return encoder.encode_queries(TEXTS) + encoder.encode_documents(documents)


def operators(folder, graph):
    return Counter(node.op_type for node in ir.load(folder / f"{graph}.onnx").graph)


def largest_difference(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_repeated_layers_are_those_of_a_whole_trace(
    checkpoint_folders, exported, tmp_path, monkeypatch
):
    family = "colqwen2"  # of test_layers' ways the most, with a stack in each graph
    monkeypatch.setattr(tracing, "one_of_each_kind", lambda model, stacks: nullcontext())
    monkeypatch.setattr("colport.export.folder.check_stacks", lambda *_: None)
    export(checkpoint_folders[family], tmp_path / "whole")
    for graph in ("text", "image"):
        assert operators(tmp_path / "whole", graph) == operators(exported[family], graph)
    difference = largest_difference(embeddings(tmp_path / "whole"), embeddings(exported[family]))
    assert difference == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_both_operator_sets_give_the_same_embeddings(
    family, checkpoint_folders, exported, tmp_path
):
    export(checkpoint_folders[family], tmp_path / "plain", opset=21)
    plain = embeddings(tmp_path / "plain")
    assert largest_difference(plain, embeddings(exported[family])) < 1e-6
    model = ir.load(tmp_path / "plain/text.onnx")
    assert dict(model.opset_imports) == {"": 21}
    assert not {"Attention", "RMSNormalization", "RotaryEmbedding"} & set(
        operators(tmp_path / "plain", "text")
    )
    found = operators(exported[family], "text")
    assert found["Attention"] >= 2
    assert found["Softmax"] == 0
    if family != "colbert":
        assert found["RotaryEmbedding"] == 2 * found["Attention"]
        assert found["RMSNormalization"] == 2 * found["Attention"] + 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_weight_is_cast_moved_or_shifted_at_load(family, precision, exported, exported_as):
    folder = exported[family] if precision == "fp32" else exported_as(family, precision=precision)
    for file in folder.glob("*.onnx"):
        for node in ir.load(file).graph:
            given = [value for value in node.inputs if value is not None]
            # A table of positions may be read in whole: that is one copy of its rows.
            assert node.op_type == "Gather" or not all(v.is_initializer() for v in given), node


def value(name, shape, dtype=ir.DataType.FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def constant(name, array):
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


class Builder:
    """Nodes one after the other, with the shapes that a trace knows."""

    def __init__(self, *inputs):
        self.inputs, self.nodes, self.constants = inputs, [], []

    def constant(self, array):
        self.constants.append(constant(f"c{len(self.constants)}", array))
        return self.constants[-1]

    def add(self, operator, inputs, shape, **attributes):
        node = ir.node(operator, inputs, attributes)
        node.outputs[0].shape = ir.Shape(shape)
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def model(self):
        graph = ir.Graph(
            self.inputs,
            [self.nodes[-1].outputs[0]],
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": 23},
            name="g",
        )
        return ir.Model(graph, ir_version=10)


def run(model, **feeds):
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def rotation(equal_halves, before=()):
    """transformers' rotation of 2 heads of size 4 over 3 tokens; operators ``before`` its waves."""
    x, table = value("x", ["batch", 3, 8]), value("table", [1, 3, 2])
    build = Builder(x, table)
    other = table if equal_halves else build.add("Neg", [table], [1, 3, 2])
    angles = build.add("Concat", [table, other], [1, 3, 4], axis=-1)
    axis = build.constant(np.array([1], np.int64))
    waves = []
    for name in ("Cos", "Sin"):
        wave = angles
        for operator in (*before, name):
            wave = build.add(operator, [wave], [1, 3, 4])
        waves.append(build.add("Unsqueeze", [wave, axis], [1, 1, 3, 4]))
    shape = build.constant(np.array([0, 0, 2, 4], np.int64))
    heads = build.add("Reshape", [x, shape], ["batch", 3, 2, 4])
    heads = build.add("Transpose", [heads], ["batch", 2, 3, 4], perm=[0, 2, 1, 3])
    bounds = [build.constant(np.array([n], np.int64)) for n in (0, 2, 4, 3)]
    halves = [
        build.add("Slice", [heads, bounds[n], bounds[n + 1], bounds[3]], ["batch", 2, 3, 2])
        for n in (0, 1)
    ]
    turned = build.add("Neg", [halves[1]], ["batch", 2, 3, 2])
    turned = build.add("Concat", [turned, halves[0]], ["batch", 2, 3, 4], axis=-1)
    straight = build.add("Mul", [heads, waves[0]], ["batch", 2, 3, 4])
    turned = build.add("Mul", [turned, waves[1]], ["batch", 2, 3, 4])
    build.add("Add", [straight, turned], ["batch", 2, 3, 4])
    return build.model()


@pytest.mark.parametrize(("equal_halves", "before"), [(True, ()), (True, ("Sin",)), (False, ())])
def test_a_rotation_becomes_an_operator_only_where_both_halves_turn_alike(equal_halves, before):
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((5, 3, 8), np.float32),
        "table": rng.standard_normal((1, 3, 2), np.float32),
    }
    expected = run(rotation(equal_halves, before), **feeds)
    model = rotation(equal_halves, before)
    write_rotary_embedding(model.graph)
    found = Counter(node.op_type for node in model.graph)
    assert found["RotaryEmbedding"] == (1 if equal_halves else 0)
    assert np.abs(run(model, **feeds) - expected).max() < 1e-6


@pytest.mark.parametrize("exponent", [2, 3])
def test_only_a_mean_of_squares_becomes_an_rms_normalisation(exponent):
    build = Builder(value("x", [2, 5, 8]))
    x = build.inputs[0]
    number = [build.constant(np.array(n, np.float32)) for n in (exponent, 1e-5)]
    last = build.constant(np.array([-1], np.int64))
    weight = build.constant(np.arange(1, 9, dtype=np.float32))
    square = build.add("Pow", [x, number[0]], [2, 5, 8])
    mean = build.add("ReduceMean", [square, last], [2, 5, 1], keepdims=1)
    shifted = build.add("Add", [mean, number[1]], [2, 5, 1])
    root = build.add("Reciprocal", [build.add("Sqrt", [shifted], [2, 5, 1])], [2, 5, 1])
    build.add("Mul", [weight, build.add("Mul", [x, root], [2, 5, 8])], [2, 5, 8])
    model = build.model()
    feeds = {"x": np.abs(np.random.default_rng(0).standard_normal((2, 5, 8), np.float32)) + 0.1}
    expected = run(model, **feeds)
    write_rms_normalisation(model.graph)
    assert any(node.op_type == "RMSNormalization" for node in model.graph) == (exponent == 2)
    assert np.abs(run(model, **feeds) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("reader", "attributes", "read_twice", "operator"),
    [
        ("LayerNormalization", {"axis": -1}, False, "Sum"),
        ("LayerNormalization", {"axis": -1}, True, "Add"),
        ("Gelu", {}, False, "Sum"),
        ("Gelu", {"approximate": "tanh"}, False, "Add"),
        ("Sigmoid", {}, False, "Add"),
    ],
)
def test_sums_are_kept_apart_from_what_they_would_slow_down(
    reader, attributes, read_twice, operator
):
    build = Builder(value("x", [2, 5, 8]), value("y", [2, 5, 8]))
    weights = [build.constant(np.ones(8, np.float32))] if reader == "LayerNormalization" else []
    total = build.add("Add", list(build.inputs), [2, 5, 8])
    result = build.add(reader, [total, *weights], [2, 5, 8], **attributes)
    if read_twice:
        build.add("Add", [total, result], [2, 5, 8])
    model = build.model()
    feeds = {name: np.random.default_rng(0).random((2, 5, 8), np.float32) for name in "xy"}
    expected = run(model, **feeds)
    keep_sums_apart(model.graph)
    assert model.graph.node(0).op_type == operator
    assert np.abs(run(model, **feeds) - expected).max() < 1e-6


def test_attention_with_shared_key_heads_is_the_same_in_both_forms():
    def model(opset):
        shapes = {"q": (2, 6, 7, 4), "k": (2, 2, 7, 4), "v": (2, 2, 7, 4), "b": (2, 1, 1, 7)}
        inputs = [value(name, shape) for name, shape in shapes.items()]
        node = ir.node("Attention", inputs, {"scale": 0.5}, domain="colport")
        node.outputs[0].shape, node.outputs[0].type = inputs[0].shape, inputs[0].type
        node.outputs[0].name = "out"
        graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": opset}, name="g")
        result = ir.Model(graph, ir_version=10)
        write_operators(result, opset)
        return result, {
            n: np.random.default_rng(1).random(s, np.float32) for n, s in shapes.items()
        }

    results = []
    for opset in (21, 23, 24):
        built, feeds = model(opset)
        feeds["b"] = np.where(feeds["b"] > 0.5, 0, -1e9).astype(np.float32)
        results.append(run(built, **feeds))
    query, key, item = (torch.from_numpy(feeds[name]) for name in "qkv")
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, item, torch.from_numpy(feeds["b"]), scale=0.5, enable_gqa=True
    )
    for result in results:
        assert np.abs(result - expected.numpy()).max() < 1e-6


def test_lengths_mask_the_keys_after_them_in_every_operator_set():
    shapes = {"q": (2, 6, 7, 4), "k": (2, 2, 7, 4), "v": (2, 2, 7, 4)}
    rng = np.random.default_rng(1)
    feeds = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    lengths = np.array([7, 3])
    results = []
    for opset in (21, 23, 24):
        inputs = [value(name, shape) for name, shape in shapes.items()]
        kind = ir.TensorType(ir.DataType.INT64)
        inputs.append(ir.Value(name="n", shape=ir.Shape([2]), type=kind))
        given = [*inputs[:3], None, inputs[3]]
        node = ir.node("Attention", given, {"scale": 0.5}, domain="colport")
        node.outputs[0].shape, node.outputs[0].type = inputs[0].shape, inputs[0].type
        node.outputs[0].name = "out"
        graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": opset}, name="g")
        built = ir.Model(graph, ir_version=10)
        write_operators(built, opset)
        assert (opset == 24) == any(len(node.inputs) == 7 for node in built.graph)
        results.append(run(built, **feeds, n=lengths))
    query, key, item = (torch.from_numpy(feeds[name]) for name in "qkv")
    attended = torch.arange(7) < torch.from_numpy(lengths)[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, item, attended[:, None, None], scale=0.5, enable_gqa=True
    )
    for result in results:
        assert np.abs(result - expected.numpy()).max() < 1e-6


def test_only_what_nothing_reads_is_removed():
    """Up from the node that is removed, to one that another node or the graph's user reads."""
    x, y = (ir.Value(name=n, shape=ir.Shape([2]), type=ir.TensorType(1)) for n in "xy")
    nodes = [ir.node("Relu", [x]), ir.node("Tanh", [y])]
    nodes += [ir.node("Neg", [nodes[0].outputs[0]]), ir.node("Abs", [nodes[1].outputs[0]])]
    nodes += [ir.node("Add", [nodes[2].outputs[0], nodes[3].outputs[0]])]
    nodes += [ir.node("Exp", [nodes[1].outputs[0]])]
    outputs = [nodes[0].outputs[0], nodes[5].outputs[0]]
    graph = ir.Graph([x, y], outputs, nodes=nodes)
    editing.remove_unread(graph, nodes[4])
    assert [node.op_type for node in graph] == ["Relu", "Tanh", "Exp"]
    editing.remove_unread(graph, nodes[0])
    assert len(graph) == 3


def test_an_operator_of_another_domain_is_another_one():
    x = ir.Value(name="x")
    ours, other = (ir.node("Gelu", [x], domain=domain) for domain in ("", editing.MICROSOFT))
    assert editing.producer(ours.outputs[0], "Relu", "Gelu") is ours
    assert editing.producer(other.outputs[0], "Gelu") is None
    assert editing.producer(ours.outputs[0], "Relu") is None
    assert editing.producer(x, "Gelu") is None
