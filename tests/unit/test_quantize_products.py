"""Products with integer weights in ONNX Runtime, on graphs of a few nodes, beside float ones."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from colport.quantize.folder import _apply
from colport.quantize.recipe import TABLE, Recipe
from colport.quantize.settings import QuantizeSettings
from colport.quantize.sites import SMALL_TABLE, find_groups
from tests.products import EXPECTED, HIDDEN, WIDTH, activations, error, graph, quantized, results


def test_what_shares_an_activation_is_one_group():
    groups = find_groups({"text": graph()}, QuantizeSettings())
    assert [group.weights for group in groups] == [("query", "key"), ("out",)]
    assert [group.name for group in groups] == ["query", "out"]
    assert [group.parameters for group in groups] == [WIDTH * 24, 16 * 12]
    assert [group.width for group in groups] == [WIDTH, 16]
    assert [site.bias is not None for site in groups[0].sites] == [True, False]
    both = find_groups({"text": graph(), "image": graph("image")}, QuantizeSettings())
    assert [len(group.sites) for group in both] == [4, 2]
    assert [group.parameters for group in both] == [WIDTH * 24, 16 * 12]
    excluded = find_groups({"text": graph()}, QuantizeSettings(exclude=("^k",)))
    assert [group.weights for group in excluded] == [("query",), ("out",)]


@pytest.mark.parametrize("form", ["per_token", "per_tensor", "static"])
def test_every_form_of_activations_gives_the_product(form):
    recipes = {"query": Recipe(form), "out": Recipe(form)}
    if form == "static":
        bounds = (float(activations().min()), float(activations().max()))
        recipes = {
            "query": replace(recipes["query"], range=bounds),
            "out": replace(recipes["out"], range=(0.0, float(HIDDEN.max()))),
        }
    found, counts, _ = quantized(recipes)
    assert counts == {"text": 3}
    assert error(found, EXPECTED) < 0.03
    only, counts, _ = quantized({"out": recipes["out"]})
    assert counts == {"text": 1}
    np.testing.assert_array_equal(only["k"], EXPECTED["k"])


def test_a_token_has_its_own_scale():
    """Beside a token a thousand times larger, and in any batch."""
    x = activations()
    recipes = {"query": Recipe("per_token"), "out": Recipe("per_token")}
    whole, _, _ = quantized(recipes, x=x)
    louder = np.concatenate([x, 1000 * x])
    beside, _, _ = quantized(recipes, x=louder)
    for name, rows in whole.items():
        np.testing.assert_allclose(beside[name][: len(x)], rows, atol=1e-5)
        lengths = np.linalg.norm(EXPECTED[name], axis=-1)
        errors = np.linalg.norm(rows - EXPECTED[name], axis=-1)
        assert (errors <= 0.05 * lengths + 1e-6).all()


def test_a_static_range_clips_what_lies_beyond_it():
    wide = Recipe("static", range=(-1.0, 1.0))
    x = np.zeros((1, 2, WIDTH), np.float32)
    x[0, 0, 0], x[0, 1, 0] = 1.0, 5.0
    found, _, _ = quantized({"query": wide}, x=x)
    np.testing.assert_allclose(found["k"][0, 1], found["k"][0, 0], atol=1e-6)
    lopsided = Recipe("static", range=(-0.5, 2.0))  # and zero is exact
    found, _, _ = quantized({"query": lopsided}, x=np.zeros((1, 1, WIDTH), np.float32))
    np.testing.assert_array_equal(found["k"], 0)
    empty, _, _ = quantized({"query": Recipe("static", range=(0.0, 0.0))}, x=0 * x)
    assert np.isfinite(empty["y"]).all()


def test_what_is_smoothed_is_multiplied_into_the_weights():
    factors = np.sqrt(np.abs(activations()).max(axis=(0, 1)))
    found, _, _ = quantized({"query": Recipe("per_token", factors=factors)})
    plain, _, _ = quantized({"query": Recipe("per_token")})
    assert error(found, EXPECTED) < 0.5 * error(plain, EXPECTED)


def test_what_is_shifted_comes_back_with_the_bias():
    """After an activation function: nothing is below the shift, all 255 steps lie above it."""
    x = np.abs(activations()) - np.float32(0.17)
    expected = results(graph(), x)
    shifted = Recipe("per_token", shift=np.float32(-0.17))
    found, _, _ = quantized({"query": shifted}, x=x)
    plain, _, _ = quantized({"query": Recipe("per_token")}, x=x)
    assert error(found, expected) < 0.75 * error(plain, expected)
    assert error(found, expected) < 0.01


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_alone_in_blocks(bits):
    settings = QuantizeSettings(bits=bits, method="weight_only", block_size=16)
    recipes = {name: Recipe(f"int{bits}_blocks") for name in ("query", "out")}
    found, counts, model = quantized(recipes, settings)
    assert counts == {"text": 3}
    assert error(found, EXPECTED) < {4: 0.15, 8: 0.02}[bits]
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert [node.attributes["K"].value for node in nodes] == [WIDTH, WIDTH, 16]
    assert [node.attributes["N"].value for node in nodes] == [16, 8, 12]


def test_only_large_tables_are_quantized():
    def table(rows):
        values = np.random.default_rng(0).standard_normal((rows, 6)).astype(np.float32)
        made = helper.make_graph(
            [helper.make_node("Gather", ["table", "ids"], ["y"])],
            "text",
            [helper.make_tensor_value_info("ids", 7, ["n"])],
            [helper.make_tensor_value_info("y", 1, ["n", 6])],
            [numpy_helper.from_array(values, "table")],
        )
        opset = [helper.make_opsetid("", 21)]
        made = helper.make_model(made, opset_imports=opset, ir_version=10)
        return ir.serde.deserialize_model(made), values

    assert find_groups({"text": table(SMALL_TABLE - 1)[0]}, QuantizeSettings()) == []
    model, values = table(SMALL_TABLE)
    (group,) = find_groups({"text": model}, QuantizeSettings())
    assert group.is_table
    _apply({"text": model}, [group], {group.name: TABLE}, QuantizeSettings())
    content = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ids = np.array([0, SMALL_TABLE - 1, 7])
    (found,) = session.run(None, {"ids": ids})
    largest = np.abs(values[ids]).max(axis=1, keepdims=True)
    assert (np.abs(found - values[ids]) <= largest / 100).all()
