"""A graph of a few products, float and with integer weights, run by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper

from colport.quantize.calibration import Statistics
from colport.quantize.folder import _apply
from colport.quantize.settings import QuantizeSettings
from colport.quantize.sites import find_groups

WIDTH = 24
RNG = np.random.default_rng(0)
WEIGHTS = {
    "query": RNG.standard_normal((WIDTH, 16)).astype(np.float32),
    "key": 3 * RNG.standard_normal((WIDTH, 8)).astype(np.float32),
    "out": RNG.standard_normal((16, 12)).astype(np.float32),
}
BIAS = np.linspace(-2, 2, 16, dtype=np.float32)


def graph(name="text"):
    """``query`` with a bias and ``key`` read one activation, ``out`` what they make of it."""
    nodes = [
        helper.make_node("MatMul", ["x", "query"], ["q"]),
        helper.make_node("Add", ["q", "bias"], ["qb"]),
        helper.make_node("MatMul", ["x", "key"], ["k"]),
        helper.make_node("Relu", ["qb"], ["r"]),
        helper.make_node("MatMul", ["r", "out"], ["o"]),
        helper.make_node("Identity", ["o"], ["y"]),
    ]
    stored = [numpy_helper.from_array(value, key) for key, value in WEIGHTS.items()]
    stored.append(numpy_helper.from_array(BIAS, "bias"))
    shape = ["batch", "tokens"]
    outputs = {"k": 8, "y": 12}
    made = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", 1, [*shape, WIDTH])],
        [helper.make_tensor_value_info(key, 1, [*shape, size]) for key, size in outputs.items()],
        stored,
    )
    return ir.serde.deserialize_model(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )


def activations(seed=1, batch=3, tokens=5):
    """Tokens of very different size; one is zero, one channel is far larger than the others."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.standard_normal((batch, tokens, 1)))
    values = rng.standard_normal((batch, tokens, WIDTH)) * size
    values[..., 3] *= 40
    values[0, 0] = 0
    return values.astype(np.float32)


def results(model, x):
    content = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip(("k", "y"), session.run(None, {"x": x}), strict=True))


def quantized(recipes, settings=None, x=None):
    model, settings = graph(), settings or QuantizeSettings()
    models = {"text": model}
    counts = _apply(models, find_groups(models, settings), recipes, settings)
    return results(model, activations() if x is None else x), counts, model


def error(found, expected):
    """Of the largest token, as a share of its length."""
    return max(
        np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        for name in expected
    )


EXPECTED = results(graph(), activations())


def statistics_of(values):
    rows = values.reshape(-1, values.shape[-1])
    return Statistics(rows.min(axis=0), rows.max(axis=0), rows.mean(axis=0), rows)


HIDDEN = np.maximum(activations() @ WEIGHTS["query"] + BIAS, 0)
