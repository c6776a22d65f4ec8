"""What a calibration measures, and the recipes that follow from it."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from colport.families.base import Batch
from colport.quantize import calibration, recipe
from colport.quantize.calibration import CalibrationSet, measure
from colport.quantize.recipe import Products, ladder
from colport.quantize.rounding import Curvature
from colport.quantize.settings import Calibration, QuantizeSettings, Sensitivity
from colport.quantize.sites import find_groups
from colport.quantize.weights import Matrix, per_channel
from tests.products import (
    BIAS,
    EXPECTED,
    WEIGHTS,
    WIDTH,
    activations,
    graph,
    quantized,
    statistics_of,
)


def batches():
    keep = np.ones((3, 5), bool)
    return [Batch("text", {"x": activations(seed)}, keep) for seed in (1, 2, 3)]


@pytest.mark.parametrize("part_bytes", [2**28, 1], ids=["all groups at once", "one at a time"])
def test_statistics_of_what_products_read(part_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_PART_BYTES", part_bytes)
    models = {"text": graph()}
    groups = find_groups(models, QuantizeSettings())
    measured = list(measure(models, groups, batches(), tmp_path, with_gram=True))
    found = {group.name: statistics for group, statistics in measured}
    inputs = np.concatenate([activations(seed) for seed in (1, 2, 3)]).reshape(-1, WIDTH)
    hidden = np.maximum(inputs @ WEIGHTS["query"] + BIAS, 0)
    assert list(found) == ["query", "out"]
    for name, rows in (("query", inputs), ("out", hidden)):
        one = found[name]
        np.testing.assert_allclose(one.low, rows.min(axis=0), atol=1e-4)
        np.testing.assert_allclose(one.high, rows.max(axis=0), rtol=1e-5)
        np.testing.assert_allclose(one.mean, rows.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(one.gram, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-3)
        sums = (np.sort(part.sum(axis=1)) for part in (one.rows, rows))
        np.testing.assert_allclose(*sums, rtol=1e-4, atol=1e-3)
    assert not (tmp_path / "base").exists()


def test_a_sample_is_of_all_that_was_seen():
    collected = calibration._Collected(1, False, np.random.default_rng(0))
    for start in range(0, 2000, 100):
        collected.add(np.arange(start, start + 100, dtype=np.float32)[:, None])
    found = collected.statistics()
    kept = found.rows[:, 0]
    assert len(kept) == len(set(kept)) == calibration.SAMPLE_ROWS
    counts, _ = np.histogram(kept, np.linspace(0, 2000, 11))
    assert counts.min() > 10  # of 25.6 in each tenth
    assert (found.mean, found.gram) == (np.float32(999.5), None)


def test_the_curvature_is_that_of_what_is_left():
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((60, 10)) + 0.5).astype(np.float32)
    gram = rows.T @ rows / 60
    found = replace(statistics_of(rows), gram=gram)
    shift, factors = np.float32(-0.3), np.linspace(0.5, 3, 10).astype(np.float32)
    left = (rows - shift) / factors
    for curvature, expected in (
        (found.curvature(shift, factors), Curvature.of(left.T @ left / 60)),
        (found.curvature(0, 1), Curvature.of(gram)),
    ):
        np.testing.assert_array_equal(curvature.order, expected.order)
        np.testing.assert_allclose(curvature.factor, expected.factor, rtol=1e-3, atol=1e-5)


class Dataset:
    name = "pages"
    queries = tuple(f"q{index}" for index in range(20))
    documents = tuple(f"d{index}" for index in range(31))


def test_inputs_are_some_of_the_second_half():
    found = CalibrationSet.choose(Dataset, Calibration(inputs=6, seed=1))
    for items, whole in ((found.queries, Dataset.queries), (found.documents, Dataset.documents)):
        places = [whole.index(item) for item in items]
        assert len(places) == 6
        assert places == sorted(set(places))
        assert min(places) >= len(whole) // 2
    assert found.dataset == "pages"
    assert found == CalibrationSet.choose(Dataset, Calibration(inputs=6, seed=1))
    assert found != CalibrationSet.choose(Dataset, Calibration(inputs=6, seed=2))
    everything = CalibrationSet.choose(Dataset, Calibration(inputs=99))
    assert everything.queries == list(Dataset.queries[10:])
    assert everything.documents == list(Dataset.documents[15:])


def test_inputs_come_in_batches_to_the_last():
    class Runtime:
        query_batch = staticmethod(lambda items: ("query", list(items)))
        document_batch = staticmethod(lambda items: ("document", list(items)))

    given = CalibrationSet(("a", "b", "c"), (1, 2), "pages")
    found = list(given.batches(Runtime, 2))
    assert found == [("query", ["a", "b"]), ("query", ["c"]), ("document", [1, 2])]


# What is made of it.


def test_smoothing_is_smoothquant_s():
    values = activations().reshape(-1, WIDTH)
    matrices = [Matrix(ir.tensor(WEIGHTS[name])) for name in ("query", "key")]
    settings = QuantizeSettings(smoothing=0.6)
    found = Products(statistics_of(values), matrices, settings).recipe("per_token")
    weights = np.maximum(*(np.abs(WEIGHTS[name]).max(axis=1) for name in ("query", "key")))
    factors = np.abs(values).max(axis=0) ** 0.6 / weights**0.4
    np.testing.assert_allclose(found.factors, factors / np.exp(np.log(factors).mean()), rtol=1e-4)
    assert (found.strength, found.shift, found.range) == (0.6, None, None)


@pytest.mark.parametrize("form", ["static", "per_token", "int4_blocks"])
def test_the_strength_that_errs_least_is_taken(form):
    """Against the products of ONNX Runtime with each strength."""
    bits = 4 if form == "int4_blocks" else 8
    method = {"static": "static", "int4_blocks": "weight_only"}.get(form, "dynamic")
    size = 16 if bits == 4 else None
    settings = QuantizeSettings(bits, method, block_size=size, smoothing="auto")
    rows = activations().reshape(-1, WIDTH)
    matrices = [Matrix(ir.tensor(WEIGHTS[name])) for name in ("query", "key")]
    tried = {
        strength: Products(
            statistics_of(rows), matrices, replace(settings, smoothing=strength)
        ).recipe(form)
        for strength in (None, *recipe.STRENGTHS)
    }
    best = Products(statistics_of(rows), matrices, settings).recipe(form)

    def loss(one):
        found, _, _ = quantized({"query": one}, settings)
        return np.square(found["k"] - EXPECTED["k"]).sum()

    losses = {strength: loss(one) for strength, one in tried.items()}
    assert losses[best.strength] <= 1.3 * min(losses.values())
    assert losses[best.strength] < losses[None] or best.strength is None
    assert max(losses.values()) > 2 * min(losses.values())


def test_a_static_range_holds_zero_and_what_is_left():
    rows = activations().reshape(-1, WIDTH)
    matrices = [Matrix(ir.tensor(WEIGHTS["key"]))]
    settings = QuantizeSettings(method="static", smoothing=0.5)
    found = Products(statistics_of(rows), matrices, settings).recipe("static")
    left = rows / found.factors
    assert found.range == pytest.approx((left.min(), left.max()), rel=1e-5)
    settings = QuantizeSettings(method="static")
    for values, bounds in ((np.abs(rows) + 1, (0, 1 + np.abs(rows).max())), (-1 - rows**2, None)):
        low, high = Products(statistics_of(values), matrices, settings).recipe("static").range
        assert low <= 0 <= high
        assert (low, high) == pytest.approx(bounds or (values.min(), 0), rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "shift"),
    [(-0.17, 8.0, -0.17), (-1.0, 8.01, -1.0), (-1.0, 8.0, None), (-8.0, 8.0, None), (0, 1, 0)],
)
def test_what_came_out_of_an_activation_function_is_shifted(low, high, shift):
    values = np.linspace(low, high, 50 * WIDTH, dtype=np.float32).reshape(50, WIDTH)
    matrices = [Matrix(ir.tensor(WEIGHTS["key"]))]
    found = Products(statistics_of(values), matrices, QuantizeSettings()).recipe("per_token")
    assert found.shift == (None if shift is None else np.float32(shift))
    static = Products(statistics_of(values), matrices, QuantizeSettings()).recipe("static")
    assert static.shift is None


def key_group():
    (group, _) = find_groups({"text": graph()}, QuantizeSettings(exclude=("query",)))
    return group


def test_gptq_rounds_by_what_the_recipe_leaves(tmp_path):
    rows = np.abs(activations().reshape(-1, WIDTH)) - np.float32(0.1)
    found = replace(statistics_of(rows), gram=rows.T @ rows / len(rows))
    settings = QuantizeSettings(smoothing=0.5, rounding="gptq")
    (made,) = ladder(key_group(), found, settings, tmp_path / "gptq")
    left = (rows - made.shift) / made.factors
    curvature = Curvature.of(left.T @ left / len(rows))
    weights = Matrix(ir.tensor(WEIGHTS["key"]), made.factors)
    expected = per_channel(weights, "key", exact=True, curvature=curvature)
    assert list(made.rounded) == ["key"]
    for values, tensor in zip(made.rounded["key"].values(), expected, strict=True):
        assert isinstance(values, np.memmap)  # what all weights have is not in memory
        np.testing.assert_array_equal(values, tensor.numpy())
    nearest = QuantizeSettings(smoothing=0.5)
    assert ladder(key_group(), found, nearest, tmp_path / "nearest")[0].rounded == {}


@pytest.mark.parametrize("positive", [False, True])
def test_a_finer_form_shares_smoothing_and_integers_unless_it_is_shifted(positive, tmp_path):
    rows = activations().reshape(-1, WIDTH)
    rows = np.abs(rows) if positive else rows
    found = replace(statistics_of(rows), gram=rows.T @ rows / len(rows))
    settings = QuantizeSettings(
        method="static", smoothing="auto", rounding="gptq", sensitivity=Sensitivity(0.9)
    )
    cheap, fine = ladder(key_group(), found, settings, tmp_path / "gptq")
    assert (cheap.form, fine.form, fine.range) == ("static", "per_token", None)
    assert (fine.rounded is cheap.rounded) == (fine.shift is None) == (not positive)
    assert 0 < fine.error < cheap.error < 0.01
    if positive:
        own = Products(found, [Matrix(ir.tensor(WEIGHTS["key"]))], settings).recipe("per_token")
        assert fine.strength == own.strength
    else:
        assert fine.factors is cheap.factors


def test_bits_have_integers_of_their_own(tmp_path):
    rows = activations().reshape(-1, WIDTH)
    found = replace(statistics_of(rows), gram=rows.T @ rows / len(rows))
    settings = QuantizeSettings(4, "weight_only", rounding="gptq", sensitivity=Sensitivity(0.9))
    four, eight = ladder(key_group(), found, settings, tmp_path / "gptq")
    assert list(four.rounded["key"]) == ["key@int4", "key@scale", "key@zero_point"]
    assert list(eight.rounded["key"]) == ["key@int8", "key@scale"]
    assert eight.error < four.error / 50
