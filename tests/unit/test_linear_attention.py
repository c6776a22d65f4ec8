"""The gated delta rule in ONNX Runtime's operator and as a scan, against transformers' chunks."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import l2norm, torch_chunk_gated_delta_rule

from colport.export.operators import write_operators
from colport.measure import operations
from colport.tensors import external_data

BATCH, TOKENS = 2, 1500
HEADS = {"key": (2, 8), "value": (4, 12)}  # and their sizes
DECAYS = {
    "hardly": lambda rng, shape: rng.uniform(-1e-4, 0, shape),
    "at once": lambda rng, shape: rng.uniform(-40, -10, shape),
    "now and then": lambda rng, shape: np.where(rng.random(shape) < 0.03, -60, -0.01),
}
WIDTHS = {name: count * size for name, (count, size) in HEADS.items()}


def inputs(decay, alike):
    """Arrays by name; keys are all much the same on a blank page."""
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal((BATCH, TOKENS, WIDTHS[of])).astype(np.float32)
        for name, of in {"value": "value", "query": "key", "key": "key"}.items()
    }
    if alike:
        arrays["key"] = arrays["key"][:, :1] + 0.01 * arrays["key"]
    for name in ("query", "key"):
        heads = torch.from_numpy(arrays[name]).unflatten(-1, HEADS["key"])
        arrays[name] = l2norm(heads).flatten(2).numpy()
    shape = (BATCH, TOKENS, HEADS["value"][0])
    arrays["decay"] = DECAYS[decay](rng, shape).astype(np.float32)
    arrays["beta"] = rng.uniform(0, 1, shape).astype(np.float32)
    return arrays


def rule_node(arrays):
    given = [
        ir.Value(
            name=name,
            shape=ir.Shape(["batch", "tokens", array.shape[2]]),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        for name, array in arrays.items()
    ]
    (shared, size), (heads, _) = HEADS["key"], HEADS["value"]
    form = {"key_heads": shared, "heads": heads, "scale": size**-0.5}
    node = ir.node("GatedDeltaRule", given, form, domain="colport")
    node.outputs[0].shape, node.outputs[0].type = given[0].shape, given[0].type
    node.outputs[0].name = "out"
    return node


def written(opset, arrays):
    node = rule_node(arrays)
    graph = ir.Graph(node.inputs, node.outputs, nodes=[node], opset_imports={"": opset}, name="g")
    model = ir.Model(graph, ir_version=10)
    write_operators(model, opset)
    return model


def in_chunks(arrays):
    """What transformers computes."""
    heads = {
        name: torch.from_numpy(arrays[name]).unflatten(-1, HEADS[of])
        for name, of in {"value": "value", "query": "key", "key": "key"}.items()
    }
    gates = {"g": torch.from_numpy(arrays["decay"]), "beta": torch.from_numpy(arrays["beta"])}
    return torch_chunk_gated_delta_rule(**heads, **gates)[0].flatten(2).numpy()


def by_token(arrays):
    """The rule as it is written, in fp64."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    (shared, size), (heads, width) = HEADS["key"], HEADS["value"]
    tokens = arrays["value"].shape[1]
    query, key = (
        wide[name].reshape(BATCH, tokens, shared, size).repeat(heads // shared, axis=2)
        for name in ("query", "key")
    )
    value = wide["value"].reshape(BATCH, tokens, heads, width)
    state, outputs = np.zeros((BATCH, heads, size, width)), []
    for token in range(tokens):
        state *= np.exp(wide["decay"][:, token])[..., None, None]
        known = np.einsum("bhk,bhkv->bhv", key[:, token], state)
        change = wide["beta"][:, token, :, None] * (value[:, token] - known)
        state += key[:, token, :, :, None] * change[:, :, None]
        outputs.append(np.einsum("bhk,bhkv->bhv", query[:, token], state).reshape(BATCH, -1))
    return np.stack(outputs, axis=1) * size**-0.5


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_both_forms_are_the_rule_over_a_long_page(decay, alike):
    """transformers' chunks lose some digits where a token forgets all and the next ones nothing."""
    arrays = inputs(decay, alike)
    exact, chunks = by_token(arrays), in_chunks(arrays)
    assert np.abs(exact).max() > 0.1
    for opset in (21, 24):
        data = ir.to_proto(written(opset, arrays)).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, arrays)
        assert np.abs(found - exact).max() < 2e-6
        assert np.abs(found - chunks).max() < 1e-4


def test_each_form_is_valid_and_says_whose_operators_it_has(tmp_path):
    arrays = inputs("hardly", alike=False)
    for opset, domains, operator in (
        (21, {"": 21}, "Scan"),
        (24, {"": 24, "com.microsoft": 1}, "LinearAttention"),
    ):
        model, file = written(opset, arrays), tmp_path / f"{opset}.onnx"
        ir.save(model, file)
        onnx.checker.check_model(str(file))
        found = external_data.read(file)
        assert dict(found.opset_imports) == domains
        assert [node.op_type for node in found.graph].count(operator) == 1


def test_a_scan_is_in_fp32_beside_attention_in_fp16_of_the_same_scale():
    arrays = {name: array[:, :5] for name, array in inputs("hardly", alike=False).items()}
    rule = rule_node(arrays)
    half = [
        ir.Value(name=n, shape=ir.Shape([2, 1, 5, 8]), type=ir.TensorType(ir.DataType.FLOAT16))
        for n in "qkv"
    ]
    scale = rule.attributes.get_float("scale")
    attention = ir.node("Attention", half, {"scale": scale}, domain="colport")
    attention.outputs[0].shape, attention.outputs[0].type = half[0].shape, half[0].type
    attention.outputs[0].name = "attended"
    graph = ir.Graph(
        [*half, *rule.inputs],
        [*attention.outputs, *rule.outputs],
        nodes=[attention, rule],
        opset_imports={"": 21},
        name="g",
    )
    model = ir.Model(graph, ir_version=10)
    write_operators(model, 21)
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = dict.fromkeys("qkv", np.ones((2, 1, 5, 8), np.float16))
    _, found = session.run(None, {**feeds, **arrays})
    assert np.abs(found - by_token(arrays)).max() < 2e-6


def test_the_rules_operations_are_counted_in_both_forms(tmp_path):
    arrays = {name: array[:, :5] for name, array in inputs("hardly", alike=False).items()}
    (_, size), (heads, width) = HEADS["key"], HEADS["value"]
    for opset in (21, 24):
        ir.save(written(opset, arrays), tmp_path / "rule.onnx")
        (call,), _ = operations.profiled_calls(tmp_path / "rule.onnx", arrays, 1, 0, 1)
        assert operations.operations(call) == 6 * BATCH * 5 * heads * size * width
