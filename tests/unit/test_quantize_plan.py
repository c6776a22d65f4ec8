"""From measured activations to a recipe for each group, and what the manifest says of them."""

from contextlib import nullcontext
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from colport.base.errors import UnsupportedError
from colport.families.base import Batch
from colport.quantize import plan
from colport.quantize.folder import _check_counts
from colport.quantize.recipe import Products
from colport.quantize.sensitivity import EXACT, Outcome, Quality, Rung
from colport.quantize.settings import Calibration, QuantizeSettings, Sensitivity
from colport.quantize.sites import find_groups, split_gemm
from colport.quantize.weights import Matrix
from colport.quantize.widen import read, widen
from colport.tensors import external_data
from colport.tensors.external_data import Layout
from tests.products import BIAS, WEIGHTS, WIDTH, activations, graph, statistics_of

DATASET = SimpleNamespace(name="pages", queries=["a", "b", "c"], documents=["d", "e"])
INPUTS = [activations(seed) for seed in (1, 2)]


class Runtime:
    """Gives the same two batches, whatever is asked for; remembers how many at a time."""

    def __init__(self):
        self.sizes = []

    def query_batch(self, queries):
        self.sizes.append(len(queries))
        return Batch("text", {"x": INPUTS[0]}, np.ones((3, 5), bool))

    def document_batch(self, documents):
        self.sizes.append(len(documents))
        return Batch("text", {"x": INPUTS[1]}, np.ones((3, 5), bool))


def calibrate(settings, runtime, tmp_path):
    models = {"text": graph()}
    groups = find_groups(models, settings)
    before = ir.serde.serialize_model(models["text"])
    found = plan.calibrate(models, groups, settings, DATASET, runtime, tmp_path, lambda line: None)
    assert ir.serde.serialize_model(models["text"]) == before  # what is tried is tried on copies
    return found


@pytest.mark.parametrize(
    ("counts", "searched", "message"),
    [
        (
            {"image": 2, "text": 0},
            False,
            "base: the text graph has no MatMul or Gather on a",
        ),
        ({"image": 2, "text": 0}, True, None),
        (
            {"image": 0, "text": 0},
            True,
            r"base: quantization\.sensitivity: nothing can be",
        ),
        ({"image": 2, "text": 1}, False, None),
    ],
)
def test_a_graph_in_which_nothing_is_quantized(counts, searched, message):
    settings = QuantizeSettings(
        operators=("MatMul", "Gather"), sensitivity=Sensitivity(0.9, 0.8) if searched else None
    )
    with pytest.raises(UnsupportedError, match=message) if message else nullcontext():
        _check_counts("base", counts, settings)


def test_half_precision_constants_are_widened():
    half = ir.tensor(np.array([1.5, -2.0], np.float16))
    constant = ir.node("Constant", [], {"value": half})
    cast = ir.node("Cast", constant.outputs, {"to": ir.DataType.FLOAT16})
    for node in (constant, cast):
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    graph = ir.Graph([], cast.outputs, nodes=[constant, cast], opset_imports={"": 21})
    model = ir.Model(graph, ir_version=10)
    widen(model)
    tensor = constant.attributes["value"].as_tensor()
    assert (tensor.dtype, tensor.numpy().tolist()) == (ir.DataType.FLOAT, [1.5, -2.0])
    assert cast.attributes.get_int("to") == ir.DataType.FLOAT
    assert {value.dtype for node in model.graph for value in node.outputs} == {ir.DataType.FLOAT}


@pytest.mark.parametrize("scaled", ["", "alpha = 2.0", "beta = 0.5", "transA = 1", "transB = 1"])
def test_only_a_plain_gemm_is_a_product(scaled):
    text = f"y = Gemm{f'<{scaled}>' if scaled else ''}(x, w, b)"
    weights = np.eye(4, dtype=np.float32)
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[4,4] x) => (float[4,4] y) {{ {text} }}',
        initializers=[ir.tensor(weights, name="w"), ir.tensor(weights[0], name="b")],
    )
    split_gemm(model.graph)
    assert [node.op_type for node in model.graph] == (["Gemm"] if scaled else ["MatMul", "Add"])


@pytest.mark.parametrize("bias", ["", ", "])
def test_a_gemm_without_a_bias_is_a_product_alone(bias):
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21]> g (float[4,4] x) => (float[4,4] y) '
        f"{{ y = Gemm(x, w{bias}) }}",
        initializers=[ir.tensor(np.eye(4, dtype=np.float32), name="w")],
    )
    split_gemm(model.graph)
    assert [(node.op_type, len(node.inputs)) for node in model.graph] == [("MatMul", 2)]


def test_without_a_search_each_group_has_the_first_form(tmp_path):
    runtime = Runtime()
    settings = QuantizeSettings(
        method="static", smoothing=0.5, rounding="gptq", calibration=Calibration(1, 7)
    )
    recipes, record = calibrate(settings, runtime, tmp_path)
    assert list(recipes) == ["query", "out"]
    rows = np.concatenate(INPUTS).reshape(-1, WIDTH)
    hidden = np.maximum(rows @ WEIGHTS["query"] + BIAS, 0)
    for name, values, weights in (("query", rows, ("query", "key")), ("out", hidden, ("out",))):
        matrices = [Matrix(ir.tensor(WEIGHTS[weight])) for weight in weights]
        plain = QuantizeSettings(method="static", smoothing=0.5)
        expected = Products(statistics_of(values), matrices, plain).recipe("static")
        found = recipes[name]
        assert found.form == "static"
        np.testing.assert_allclose(found.factors, expected.factors, rtol=1e-3)
        assert found.range == pytest.approx(expected.range, rel=1e-3)
        assert list(found.rounded) == list(weights)
    assert record == {
        "calibration": {"dataset": "pages", "queries": 1, "documents": 1, "seed": 7},
        "groups": [
            {
                **{"weights": ["query", "key"], "parameters": WIDTH * 24},
                **{"form": "static", "smoothing": 0.5},
            },
            {"weights": ["out"], "parameters": 192, "form": "static", "smoothing": 0.5},
        ],
    }
    assert runtime.sizes == [1, 1]  # nothing is measured on padding


@pytest.mark.parametrize("quality", [EXACT, Quality(0.9, 0.8)])
def test_a_search_decides(tmp_path, monkeypatch, quality):
    runtime = Runtime()
    seen = []

    def search(models, ladders, batches, settings, scratch, report):
        seen.extend([recipe.form for recipe in ladder] for _, ladder in ladders)
        rungs = {0: Rung("static", 1, Quality(0.5, 0.4), 0.25), 2: Rung("float", 9, EXACT)}
        choice = {"query": 1, "out": 2}
        return Outcome({"query": rungs, "out": rungs}, choice, quality, 17)

    monkeypatch.setattr(plan, "search", search)
    target = Sensitivity(0.99, 0.9)
    settings = QuantizeSettings(method="static", sensitivity=target)
    recipes, record = calibrate(settings, runtime, tmp_path)
    assert seen == [["static", "per_token"]] * 2
    assert {name: recipe.form for name, recipe in recipes.items()} == {"query": "per_token"}
    assert recipes["query"].rounded == {}
    assert [group["form"] for group in record["groups"]] == ["per_token", "float"]
    assert [group["smoothing"] for group in record["groups"]] == [None, None]
    alone = {"static": {"mean_cosine": 0.5, "min_cosine": 0.4, "share": 0.25}}
    assert record["sensitivity"] == {
        "target": {"mean_cosine": 0.99, "min_cosine": 0.9},
        "reached": quality is EXACT,
        "mean_cosine": quality.mean_cosine,
        "min_cosine": quality.min_cosine,
        "trials": 17,
        "alone": {"query": alone, "out": alone},
    }
    assert runtime.sizes == [1, 1, 1, 2, 1]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_a_half_precision_base_is_read_as_float(tmp_path, precision):
    kinds = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}
    model = graph()
    for value in model.graph.initializers.values():
        half = value.const_value.numpy().astype(kinds[precision])
        value.const_value = ir.tensor(half, name=value.name)
        value.type = ir.TensorType(value.const_value.dtype)
    external_data.write({"text": model}, tmp_path, Layout())
    graphs = {"text": SimpleNamespace(file="text.onnx")}
    found = read(tmp_path, SimpleNamespace(graphs=graphs, precision=precision))["text"]
    for name, value in found.graph.initializers.items():
        assert value.dtype == ir.DataType.FLOAT
        expected = (WEIGHTS | {"bias": BIAS})[name].astype(kinds[precision]).astype(np.float32)
        np.testing.assert_array_equal(value.const_value.numpy(), expected)


def test_what_needs_no_inputs_has_one_form():
    four = QuantizeSettings(4, "weight_only")
    for settings, form in ((QuantizeSettings(), "per_token"), (four, "int4_blocks")):
        assert settings.forms[0] == form
        assert not settings.is_calibrated
