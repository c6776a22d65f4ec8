"""Sums of integer products: exact on every processor, or said."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from colport import Encoder
from colport.base.errors import ConfigError, UnsupportedError
from colport.cli.inspection import _lines
from colport.folder import manifest
from colport.providers import PROVIDERS, ProviderSettings, integers
from colport.providers.session import open_session
from colport.quantize import folder
from colport.quantize.folder import quantize
from colport.quantize.rounding import Curvature, gptq
from colport.quantize.settings import QuantizeSettings, Sensitivity
from colport.quantize.weights import LARGEST, LARGEST_SUM, Matrix, channel_scales, per_channel
from colport.report import model_card
from colport.tensors.streaming import StreamedTensor
from tests.stored_graphs import built
from tests.stored_weights import neighbour_sums, tensors

QUERIES = ["a red pie chart", "", "Which page shows a blue table and a photo of something orange?"]
RNG = np.random.default_rng


def hard_weights(inputs, outputs):
    """Neighbours of one sign that are both large, of both signs, and a channel of zeros."""
    weights = RNG(inputs).standard_normal((inputs, outputs)).astype(np.float32)
    weights[:, 0] = 1
    weights[:, 1] = -1
    weights[:, 2] = 0
    weights[::2, 3] = 1
    weights[1::2, 3] = -1
    weights[: inputs // 2, 4] = 9
    return weights


def product(codes):
    """A model of unsigned bytes times these stored signed ones."""
    inputs, outputs = codes.shape
    kinds = {"a": (TensorProto.UINT8, ["m", inputs]), "sums": (TensorProto.INT32, ["m", outputs])}
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    stored = helper.make_tensor("b", TensorProto.INT8, codes.shape, codes.tobytes(), raw=True)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["sums"])
    body = helper.make_graph([node], "product", values[:1], values[1:], [stored])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("inputs", [1, 7, 64, 129])
def test_the_exact_range_saturates_on_no_processor(inputs, rounding):
    weights = hard_weights(inputs, 40)
    curvature = None
    if rounding == "gptq":
        activations = RNG(1).standard_normal((300, inputs)) @ RNG(2).standard_normal((inputs,) * 2)
        curvature = Curvature.of((activations.T @ activations / 300).astype(np.float32))
    tensor, scales = per_channel(Matrix(ir.tensor(weights)), "w", exact=True, curvature=curvature)
    codes = tensor.numpy()
    assert np.abs(codes.astype(int)).max() == LARGEST
    # What vpmaddubsw adds in 16 bits, for the largest activations: the limit on every processor.
    assert 255 * neighbour_sums(codes).max(initial=0) <= 255 * LARGEST_SUM <= np.iinfo(np.int16).max
    session = onnxruntime.InferenceSession(product(codes), providers=["CPUExecutionProvider"])
    largest = np.full((5, inputs), 255, np.uint8)
    for rows in (largest, RNG(3).integers(0, 256, (5, inputs), dtype=np.uint8)):
        expected = rows.astype(np.int64) @ codes.astype(np.int64)
        np.testing.assert_array_equal(session.run(None, {"a": rows})[0], expected)
    if rounding == "nearest":
        assert np.abs(codes * scales.numpy() - weights).max() <= scales.numpy().max() * 0.5001


def test_scales_are_the_same_however_the_rows_come():
    weights = hard_weights(13, 6)
    whole = channel_scales([weights], exact=True)
    for cut in ([1], [1, 2], [4, 9], [5, 6, 7]):
        np.testing.assert_array_equal(channel_scales(np.split(weights, cut), exact=True), whole)
    parts = StreamedTensor(
        lambda: iter(np.split(weights, [3, 4])), ir.DataType.FLOAT, weights.shape, "w"
    )
    assert np.array_equal(per_channel(Matrix(parts), "w", exact=True)[1].numpy(), whole)
    sums = neighbour_sums(weights).max(axis=0)
    single = np.abs(weights).max(axis=0)
    expected = np.where(single > 0, np.maximum(single, sums) / LARGEST, 1)
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    full = channel_scales([weights], exact=False)
    np.testing.assert_allclose(full, np.where(single > 0, single / LARGEST, 1), rtol=1e-6)


def test_gptq_holds_the_limit_in_any_order_of_rows_and_is_free_without_it():
    gram = np.diag(RNG(4).random(9) + 0.1).astype(np.float32)
    curvature = Curvature.of(gram)
    units = np.full((9, 3), 100.0, np.float32)
    scales = np.ones((1, 3), np.float32)
    free = gptq(units, scales, curvature, -127, 127)
    held = gptq(units, scales, curvature, -127, 127, 128)
    assert np.array_equal(free, units)
    places = np.argsort(curvature.order)
    for first in range(0, 8, 2):
        later, earlier = sorted((first, first + 1), key=lambda row: places[row])
        assert held[earlier].tolist() == [100] * 3
        assert held[later].tolist() == [28] * 3
    assert held[8].tolist() == [100] * 3  # the last of an odd number has no neighbour


@pytest.fixture(scope="module")
def folders(exported, tmp_path_factory):
    """A text model in both ranges."""
    made = tmp_path_factory.mktemp("ranges")
    for name in integers.RANGES:
        quantize(exported["colbert"], made / name, QuantizeSettings(range=name))
    return made


def test_a_folder_has_the_exact_range_unless_the_full_one_is_asked_for(folders, exported, tmp_path):
    quantize(exported["colbert"], tmp_path / "int8")
    for place, name in ((tmp_path / "int8", "exact"), (folders / "full", "full")):
        found = manifest.read(place)
        assert found.quantization["settings"]["range"] == found.integer_range == name
        codes = [
            values
            for graph in tensors(place).values()
            for key, values in graph.items()
            if values.dtype == np.int8 and f"{key.removesuffix('@int8')}@scale" in graph
            if graph[f"{key.removesuffix('@int8')}@scale"].ndim == 1
        ]
        assert codes
        largest = max(neighbour_sums(values).max() for values in codes)
        assert (largest <= LARGEST_SUM) == (name == "exact")


@pytest.mark.parametrize(
    ("precision", "quantization", "range_"),
    [
        ("fp32", {}, None),
        ("int4", {"settings": {"method": "weight_only"}}, None),
        ("int8", {"settings": {"method": "weight_only"}}, None),
        ("int8", {"settings": {"method": "static", "range": "exact"}}, "exact"),
        ("int8", {"settings": {"method": "dynamic"}}, "full"),
        ("int8", {"settings": {"range": "of another version"}}, "full"),
        ("int8", {}, "full"),
    ],
)
def test_what_does_not_name_its_range_has_the_full_one(folders, precision, quantization, range_):
    found = manifest.read(folders / "exact")
    found = replace(found, precision=precision, quantization=quantization)
    assert found.integer_range == range_


def test_both_kinds_of_kernels_give_the_same_embeddings(folders, monkeypatch):
    """On a processor that saturates they are two; the exact range is right in either."""
    plain = Encoder(folders / "exact").encode_queries(QUERIES)
    monkeypatch.setattr("colport.runtime.opened.needs_exact_kernels", lambda *_: True)
    for one, other in zip(plain, Encoder(folders / "exact").encode_queries(QUERIES), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.fixture
def saturating(monkeypatch):
    """As on a processor without VNNI, whichever this one is."""
    monkeypatch.setattr(integers, "saturates", lambda: True)
    monkeypatch.setattr(folder, "saturates", lambda: True)


@pytest.fixture
def opened(monkeypatch):
    """Whether each session that the encoder opens has the exact kernels."""
    asked = []

    def session(file, settings, **options):
        asked.append(options["exact_sums"])
        return SimpleNamespace(get_inputs=list, get_outputs=lambda: [SimpleNamespace(name="y")])

    monkeypatch.setattr("colport.runtime.opened.open_session", session)
    return asked


def test_where_the_full_range_saturates_exact_kernels_run_it_and_that_is_said(
    folders, opened, saturating, monkeypatch
):
    with pytest.warns(UserWarning, match="full: has int8 weights in the full range, whose sums"):
        Encoder(folders / "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoder(folders / "exact")
        monkeypatch.setattr(integers, "saturates", lambda: False)
        Encoder(folders / "full")
    assert opened == [True, False, False]


def test_full_range_products_are_exact_with_the_kernels_that_are_asked_for(tmp_path):
    """On processors that saturate this is another kernel, on the others nothing changes."""
    codes = np.full((64, 8), 127, np.int8)
    model, rows = product(codes), np.full((3, 64), 255, np.uint8)
    (tmp_path / "product.onnx").write_bytes(model)
    opened = open_session(tmp_path / "product.onnx", ProviderSettings.of("cpu"), exact_sums=True)
    np.testing.assert_array_equal(opened.run(None, {"a": rows})[0], 64 * 255 * 127)
    inexact = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = inexact.run(None, {"a": rows})[0]
    assert integers.saturates() == bool((found != 64 * 255 * 127).any())


def test_a_provider_without_exact_kernels_refuses_the_full_range(saturating):
    promise = r"and OpenVINOExecutionProvider has no other .* providers that have: cpu, cuda\."
    with pytest.raises(UnsupportedError, match=promise):
        integers.needs_exact_kernels("full", PROVIDERS["openvino"], "int8")
    assert not integers.needs_exact_kernels("exact", PROVIDERS["openvino"], "int8")
    assert not integers.needs_exact_kernels(None, PROVIDERS["openvino"], "fp32")


def test_a_search_in_the_full_range_needs_a_processor_that_computes_it(
    exported, tmp_path, saturating
):
    settings = QuantizeSettings(range="full", sensitivity=Sensitivity(0.9, 0.9))
    with pytest.raises(UnsupportedError, match=r"range: full with a sensitivity search needs"):
        quantize(exported["colbert"], tmp_path / "int8", settings, dataset=object())


def test_settings_of_a_range():
    assert QuantizeSettings().range == "exact"
    assert QuantizeSettings(method="static").is_exact
    assert not QuantizeSettings(range="full").is_exact
    assert QuantizeSettings(method="weight_only").range is None
    with pytest.raises(ConfigError, match=r"quantization\.range: found 'half'; allowed are exact"):
        QuantizeSettings(range="half")
    with pytest.raises(ConfigError, match="range: goes with methods dynamic and static"):
        QuantizeSettings(method="weight_only", range="full")


def test_a_folder_says_what_its_sums_are(folders):
    for name, words in (("exact", "exact on every processor"), ("full", "exact with VNNI, AVX-V")):
        found = manifest.read(folders / name)
        assert any(line.startswith(f"sums       {words}") for line in _lines(found))
        assert f"| Integer sums | {words}" in model_card.write(found, "me/x", model_card.Measured())
    for precision in ("fp32", "int4"):
        found = replace(manifest.read(folders / "exact"), precision=precision)
        assert not any(line.startswith("sums") for line in _lines(found))
        assert "Integer sums" not in model_card.write(found, "me/x", model_card.Measured())


def test_stored_graphs_are_what_they_are_said_to_be():
    found = built()
    assert len(found) == 3
    assert {file: file.read_bytes() for file in found} == found


def test_the_probe_asks_onnx_runtime(monkeypatch):
    for found, expected in ((4 * 255 * 127, False), (2 * 32767, True)):

        def run(_, feeds, found=found):
            assert (feeds["a"].tolist(), feeds["b"].tolist()) == ([[255] * 4], [[127]] * 4)
            return [np.array([[found]], np.int32)]

        session = SimpleNamespace(run=run)
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, s=session, **__: s)
        assert integers.saturates.__wrapped__() is expected
