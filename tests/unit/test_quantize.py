"""Integer variants: their weights, what they lose, and how their recipe is found."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from colport import Encoder
from colport.base.errors import ConfigError, UnsupportedError
from colport.data.datasets import load_retrieval_dataset
from colport.folder import manifest
from colport.pipeline import variants
from colport.quantize.blocks import blockwise, rounded
from colport.quantize.folder import quantize
from colport.quantize.settings import Calibration, QuantizeSettings, Sensitivity
from colport.quantize.weights import Matrix
from colport.tensors.editing import MICROSOFT, Chain
from tests.conftest import RESOURCES
from tests.stored_weights import neighbour_sums, tensors

QUERIES = ["a red pie chart", "", "Which page shows a blue table and a photo of something orange?"]
PASSAGES = ["One passage; with, punctuation!", "x", "A longer passage about retrieval. " * 40]
INPUTS = 4


@pytest.fixture(scope="module")
def pages():
    folder = RESOURCES / "datasets/demo-pages-qa"

    return load_retrieval_dataset("demo", {"path": str(folder), "schema": "qa"})


def documents_for(encoder, pages):
    return PASSAGES if encoder.document_type == "passages" else list(pages.documents[:3])


def cosines(folder, base, pages):
    """Of every token embedding of both folders."""
    small, full = Encoder(folder), Encoder(base)
    documents = documents_for(full, pages)
    found = [*small.encode_queries(QUERIES), *small.encode_documents(documents)]
    expected = [*full.encode_queries(QUERIES), *full.encode_documents(documents)]
    return np.concatenate([(a * b).sum(axis=1) for a, b in zip(found, expected, strict=True)])


@pytest.mark.parametrize(
    ("family", "least"), [("colbert", 0.9), ("colpali", 0.99), ("colqwen2", 0.99)]
)
def test_int8_is_close_small_and_independent_of_the_batch(exported, pages, family, least, tmp_path):
    written = quantize(exported[family], tmp_path / "int8")
    before, after = (
        {name: value for graph in tensors(folder).values() for name, value in graph.items()}
        for folder in (exported[family], tmp_path / "int8")
    )
    saved = sum(value.nbytes for value in before.values()) - sum(v.nbytes for v in after.values())
    integers = sum(value.size for value in after.values() if value.dtype == np.int8)
    assert saved == pytest.approx(3 * integers, rel=0.1)  # of four bytes each, less the scales
    assert integers > 0.85 * sum(value.size for value in before.values())
    assert cosines(tmp_path / "int8", exported[family], pages).min() > least
    assert written.quantization["batch_dependent"] is False
    encoder = Encoder(tmp_path / "int8")
    documents = documents_for(encoder, pages)
    for encode, items in (
        (encoder.encode_queries, QUERIES),
        (encoder.encode_documents, documents),
    ):
        for alone, together in zip(encode(items, 1), encode(items, 3), strict=True):
            np.testing.assert_allclose(alone, together, atol=1e-3)


def test_one_scale_for_a_batch_is_recorded_as_such(exported, tmp_path):
    settings = QuantizeSettings(activations="per_tensor")
    written = quantize(exported["colbert"], tmp_path / "int8", settings)
    assert written.quantization["batch_dependent"] is True
    encoder = Encoder(tmp_path / "int8")
    alone, together = (encoder.encode_queries(QUERIES, size)[0] for size in (1, 3))
    assert np.abs(alone - together).max() > 1e-3


def test_int8_weights_are_per_channel(exported, tmp_path):
    quantize(exported["colpali"], tmp_path / "int8", QuantizeSettings(operators=("MatMul",)))
    original, found = tensors(exported["colpali"])["text.onnx"], tensors(tmp_path / "int8")
    name = "embedding_proj_layer.weight^T"
    values, scales = found["text.onnx"][f"{name}@int8"], found["text.onnx"][f"{name}@scale"]
    assert values.dtype == np.int8
    assert scales.shape == (original[name].shape[1],)
    weights = original[name]
    largest = np.maximum(np.abs(weights).max(axis=0), neighbour_sums(weights).max(axis=0))
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
    assert np.abs(values * scales - weights).max() <= scales.max() / 2 + 1e-7


def test_excluded_weights_stay_float(exported, tmp_path):
    settings = QuantizeSettings(exclude=("embedding_proj_layer",))
    quantize(exported["colpali"], tmp_path / "int8", settings)
    names = tensors(tmp_path / "int8")["text.onnx"]
    assert "embedding_proj_layer.weight^T" in names
    assert manifest.read(tmp_path / "int8").quantization["settings"]["exclude"] == [
        "embedding_proj_layer"
    ]


def test_quantizing_twice_or_nothing_is_unsupported(exported, tmp_path):
    quantize(exported["colpali"], tmp_path / "int8")
    with pytest.raises(UnsupportedError, match="has precision int8; quantized is from fp32, fp16"):
        quantize(tmp_path / "int8", tmp_path / "again")
    nothing = QuantizeSettings(operators=("MatMul",), exclude=("weight",))
    with pytest.raises(UnsupportedError, match="the text graph has no MatMul on a weight that can"):
        quantize(exported["colpali"], tmp_path / "nothing", nothing)


def test_calibrated_int8_reaches_its_target(exported, pages, tmp_path):
    target = Sensitivity(mean_cosine=0.997, min_cosine=0.985)
    settings = QuantizeSettings(
        method="static",
        smoothing="auto",
        rounding="gptq",
        sensitivity=target,
        calibration=Calibration(INPUTS),
    )
    written = quantize(exported["colpali"], tmp_path / "int8", settings, dataset=pages)
    found = json.loads((tmp_path / "int8/colport.json").read_text())["quantization"]
    assert found == json.loads(json.dumps(written.quantization))
    assert found["calibration"]["queries"] <= INPUTS
    assert found["sensitivity"]["reached"] is True
    assert found["sensitivity"]["min_cosine"] >= target.min_cosine
    forms = [group["form"] for group in found["groups"]]
    assert forms.count("static") > len(forms) / 2
    alone, is_tried = found["sensitivity"]["alone"], found["sensitivity"]["trials"] > 1
    assert len(alone) == (len(forms) if is_tried else 0)
    assert cosines(tmp_path / "int8", exported["colpali"], pages).min() > 0.98

    scratch, used = tmp_path / "scratch", []

    def look(line):
        used.append(any(scratch.glob("*/*")))

    again = quantize(
        *(exported["colpali"], tmp_path / "again", settings),
        report=look,
        dataset=pages,
        scratch=scratch,
    )
    assert again.digest == written.digest
    assert any(used)
    assert not any(scratch.iterdir())


def test_a_target_beyond_reach_keeps_products_float(exported, pages, tmp_path):
    target = Sensitivity(mean_cosine=0.999999, min_cosine=0.999999)
    settings = QuantizeSettings(sensitivity=target, calibration=Calibration(INPUTS))
    written = quantize(exported["colqwen2"], tmp_path / "int8", settings, dataset=pages)
    groups = written.quantization["groups"]
    kept = {name for group in groups if group["form"] == "float" for name in group["weights"]}
    assert kept
    assert kept <= {name for graph in tensors(tmp_path / "int8").values() for name in graph}


def test_int4_takes_eight_bits_where_four_lose_too_much(exported, pages, tmp_path):
    four = replace(QuantizeSettings.from_config(variants.get("int4")), smoothing="auto")
    mixed = replace(four, sensitivity=Sensitivity(0.9999, 0.998))
    calibration = Calibration(INPUTS)
    folders = {}
    for name, settings in (("four", four), ("mixed", mixed)):
        folders[name] = tmp_path / name
        settings = replace(settings, calibration=calibration)
        written = quantize(exported["colpali"], folders[name], settings, dataset=pages)
        forms = {group["form"] for group in written.quantization["groups"]}
        assert written.precision == "int4"
        assert ("int8_blocks" in forms) == (name == "mixed")
        assert "int4_blocks" in forms
        for graph, before in manifest.read(exported["colpali"]).graphs.items():
            scales = written.graphs[graph].parameters / before.parameters - 1
            assert 0 < scales < 0.1  # and zero points; a byte holds two parameters
    four, mixed = (1 - cosines(folders[name], exported["colpali"], pages) for name in folders)
    assert mixed.mean() < four.mean() / 2


@pytest.mark.parametrize(("precision", "family"), [("fp16", "colpali"), ("bf16", "colbert")])
def test_a_half_precision_base_computes_in_float(
    exported_as, exported, pages, precision, family, tmp_path
):
    half = exported_as(family, precision=precision)
    settings = QuantizeSettings(operators=("Gather",))  # every product stays float
    quantize(half, tmp_path / "int8", settings)
    kinds = {v.dtype.name for graph in tensors(tmp_path / "int8").values() for v in graph.values()}
    assert kinds <= {"float32", "int64", "int8", "bool"}
    least = {"fp16": 0.999, "bf16": 0.99}[precision]
    assert cosines(tmp_path / "int8", exported[family], pages).min() > least
    if precision == "bf16":
        with pytest.raises(UnsupportedError, match=r"no kernel for an operator of \w+\.onnx"):
            Encoder(half)


def test_calibration_needs_inputs(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"method static .* needs queries and documents"):
        quantize(exported["colpali"], tmp_path / "int8", QuantizeSettings(method="static"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "quantization.method: found 'magic'; allowed are dynamic, static"),
        ({"rounding": "up"}, "quantization.rounding: found 'up'; allowed are nearest, gptq"),
        ({"bits": 4}, "found 'dynamic'; int4 needs weight_only"),
        ({"block_size": 32}, "quantization.block_size: goes with method weight_only, not dynamic"),
        ({"method": "weight_only", "block_size": 20}, "found 20; allowed are 16, 32"),
        ({"method": "static", "activations": "per_token"}, "goes with method dynamic, not static"),
        ({"smoothing": 0}, "quantization.smoothing: found 0; allowed are auto and numbers"),
        ({"calibration": Calibration()}, "quantization.calibration: nothing reads it"),
        ({"operators": ()}, r"operators: found \(\); expected at least 1 of them"),
        ({"operators": ("Gemm",)}, r"operators: found \('Gemm',\); allowed are MatMul, Gather"),
        ({"exclude": ("(",)}, r"exclude: '\(' is not a regular expression"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        QuantizeSettings(**settings)


def test_settings_from_a_config():
    with pytest.raises(ConfigError, match="precision: found 'fp16'; quantized to is int8 or int4"):
        QuantizeSettings.from_config({"precision": "fp16"})
    found = QuantizeSettings.from_config(variants.get("int8-calibrated"))
    assert found.forms == ("static", "per_token")
    assert found.sensitivity == Sensitivity(0.997, 0.988)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 24), (80, 33)])
def test_onnx_runtime_reads_the_blocks_as_they_were_written(bits, inputs, outputs):
    rng = np.random.default_rng(bits)
    weights = (rng.standard_normal((inputs, outputs)) + 0.3).astype(np.float32)
    graph = ir.Graph([], [], nodes=[], name="product", opset_imports={"": 21, MICROSOFT: 1})
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["rows", inputs]), type=kind)
    graph.inputs.append(x)
    chain = Chain(graph)
    tensors = blockwise(Matrix(ir.tensor(weights)), "w", bits, 32)
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": 32}
    operands = [x, *map(chain.stored, tensors)]
    y = chain.add("MatMulNBits", operands, attributes, MICROSOFT)
    y.name, y.type = "y", kind
    graph.extend(chain.nodes)
    graph.outputs.append(y)
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.eye(inputs, dtype=np.float32)})
    np.testing.assert_allclose(found, rounded(weights, bits, 32), atol=1e-5)
