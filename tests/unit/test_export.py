"""Exported folders against their own libraries: embeddings, layouts, precision, refusals."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from benchmarks import graphs
from colport import Encoder
from colport.base.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    ExportError,
    UnsupportedError,
)
from colport.export import record
from colport.export.folder import export
from colport.families import registry
from colport.folder import manifest
from colport.folder.graphs import convert
from colport.tensors import external_data
from colport.tensors.external_data import Layout
from tests.conftest import ROOT

QUERIES = [
    "a red pie chart",
    "",
    "Which page shows a blue table, a green line chart and a photo of something orange?",
    "ünïcode: 图表",
]
PASSAGES = ["One passage; with, punctuation!", "x", "A longer passage about retrieval. " * 40]


def pages() -> list[Image.Image]:
    """Pages of several shapes and modes: portrait, landscape, tiny, extreme, grey."""
    rng = np.random.default_rng(7)
    sizes = [(168, 168), (120, 310), (400, 90), (20, 30), (35, 900)]
    drawn = []
    for width, height in sizes:
        coarse = rng.integers(0, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
        drawn.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))
    return [*drawn, drawn[0].convert("L")]


@pytest.fixture(scope="module", params=["colbert", "colpali", "colqwen2"])
def pair(request, exported, checkpoint_folders):
    family = registry.get(request.param)
    return Encoder(exported[request.param]), family.reference(
        checkpoint_folders[request.param], "cpu"
    )


def documents_for(encoder) -> list:
    return PASSAGES if encoder.document_type == "passages" else pages()


def assert_equal_embeddings(found, expected):
    assert [rows.shape for rows in found] == [rows.shape for rows in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
        assert (one * other).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_queries_equal_the_reference(pair, batch_size):
    encoder, reference = pair
    expected = reference.encode_queries(QUERIES, batch_size=2)
    assert_equal_embeddings(encoder.encode_queries(QUERIES, batch_size), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_documents_equal_the_reference(pair, batch_size):
    encoder, reference = pair
    documents = documents_for(encoder)
    expected = reference.encode_documents(documents, batch_size=1)
    assert_equal_embeddings(encoder.encode_documents(documents, batch_size), expected)


def test_embeddings_have_unit_length(pair):
    encoder, _ = pair
    for rows in encoder.encode_queries(QUERIES):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_a_document_of_the_wrong_type_is_refused(pair):
    encoder, _ = pair
    takes_pages = encoder.document_type == "pages"
    wrong, allowed = (
        ("text", "a Pillow image") if takes_pages else (Image.new("RGB", (8, 8)), "text")
    )
    with pytest.raises(TypeError, match=rf"documents\[0\]: found \w+; allowed is .*{allowed}"):
        encoder.encode_documents([wrong])


def test_graphs_have_dynamic_axes_and_share_weights(exported):
    folder = exported["colpali"]
    found = manifest.read(folder)
    assert set(found.graphs) == {"text", "image"}
    assert found.graphs["image"].inputs["pixel_values"]["shape"] == ["batch", 3, 168, 168]
    for graph in found.graphs.values():
        assert graph.inputs["input_ids"]["shape"] == ["batch", "tokens"]
        assert graph.outputs["embeddings"]["shape"][:2] == ["batch", "tokens"]
    weights = (folder / "weights.onnx_data").stat().st_size
    largest = max(graph.parameters for graph in found.graphs.values())
    assert weights < 1.02 * 4 * largest + 65536
    rows = record.record(found, folder, {"model": "m"}, {"seconds": 1.5})["rows"]
    assert [row["graph"] for row in rows] == ["text", "image"]
    for row in rows:
        assert (row["model"], row["seconds"], row["weight_files"]) == ("m", 1.5, 1)
        graph = (folder / f"{row['graph']}.onnx").stat().st_size
        assert row["size_bytes"] == weights + graph < row["folder_bytes"]


def tensors(folder) -> dict[str, dict[str, np.ndarray]]:
    """Every initializer of every graph, read with onnx itself."""
    found = {}
    for file in sorted(folder.glob("*.onnx")):
        model = onnx.load(file)
        found[file.name] = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return found


@pytest.mark.parametrize("family", ["colbert", "colpali"])
def test_layouts_are_lossless(exported, family, tmp_path):
    limit = 50_000_000 if family == "colbert" else 1_000_000
    steps = [Layout("merge"), Layout("shard", limit), Layout("split")]
    original = tensors(exported[family])
    source = exported[family]
    for step in steps:
        target = tmp_path / step.layout
        convert(source, target, step)
        found = tensors(target)
        assert found.keys() == original.keys()
        for graph, values in original.items():
            assert found[graph].keys() == values.keys()
            for name, value in values.items():
                np.testing.assert_array_equal(found[graph][name], value, err_msg=name)
        source = target
    assert [p.name for p in (tmp_path / "merge").glob("*data")] == []
    shards = sorted((tmp_path / "shard").glob("*data"))
    assert len(shards) > 1
    assert max(shard.stat().st_size for shard in shards) <= limit
    assert shards[0].name == f"weights-00001-of-{len(shards):05d}.onnx_data"
    same = Encoder(tmp_path / "shard").encode_queries(QUERIES)
    for one, other in zip(same, Encoder(exported[family]).encode_queries(QUERIES), strict=True):
        np.testing.assert_array_equal(one, other)


def test_merge_refuses_more_than_protobuf_holds(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "PROTOBUF_LIMIT", 17_000_000)
    with pytest.raises(ExportError, match=r"merge.*2 GiB; use 'split' or 'shard'"):
        convert(exported["colpali"], tmp_path / "merged", Layout("merge"))
    assert list(tmp_path.iterdir()) == []


def test_a_shard_smaller_than_a_tensor_is_refused(exported, tmp_path):
    with pytest.raises(ExportError, match="max_shard_bytes: 2000 is below tensor"):
        convert(exported["colpali"], tmp_path / "shards", Layout("shard", 2000))
    assert not (tmp_path / "shards").exists()


def test_shared_weights_take_no_memory_of_their_own(exported):
    """ONNX Runtime's own copy of repacked weights is gone, and the embeddings are the same."""
    own, shared = (graphs.own_megabytes(exported["colbert"], kind) for kind in (False, True))
    products = 4 * 11e6 / 1e6  # MB of MiniLM's matrices; its word table is never repacked
    assert own > 0.9 * products
    assert shared < own - 0.8 * products
    for one, other in zip(
        Encoder(exported["colbert"], share_weights=True).encode_documents(PASSAGES),
        Encoder(exported["colbert"]).encode_documents(PASSAGES),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_fp16_is_half_the_size_and_close(exported_as, exported):
    folder = exported_as("colqwen2", precision="fp16")
    half = (folder / "weights.onnx_data").stat().st_size
    full = (exported["colqwen2"] / "weights.onnx_data").stat().st_size
    assert half < 0.55 * full
    model = onnx.load(folder / "image.onnx")
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 2} == {
        onnx.TensorProto.FLOAT16
    }
    for one, other in zip(
        Encoder(folder).encode_documents(pages()),
        Encoder(exported["colqwen2"]).encode_documents(pages()),
        strict=True,
    ):
        assert (one * other).sum(axis=1).min() > 0.999


def copy_checkpoint(source, target):
    shutil.copytree(source, target)
    return target


def rewrite(folder, change):
    """Apply ``change`` to a checkpoint's tensors."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    values = load_file(file)
    change(values)
    save_file({k: v.contiguous() for k, v in values.items()}, file, {"format": "pt"})


def test_damaged_checkpoints_are_refused(checkpoint_folders, tmp_path):
    source = checkpoint_folders["colpali"]
    projection = "embedding_proj_layer.weight"

    def broken(name, change, message, error=CheckpointError):
        folder = copy_checkpoint(source, tmp_path / name)
        change(folder)
        with pytest.raises(error, match=message):
            export(folder, tmp_path / "out", family="colpali")
        assert not (tmp_path / "out").exists()

    broken(
        "missing",
        lambda f: rewrite(f, lambda t: t.pop(projection)),
        "1 missing weights, first 'embedding_proj_layer.weight'",
    )
    broken(
        "unexpected",
        lambda f: rewrite(f, lambda t: t.update(extra=t[projection].clone())),
        "1 unexpected weights, first 'extra'",
    )
    broken(
        "shape",
        lambda f: rewrite(f, lambda t: t.update({projection: t[projection][:, :-1]})),
        "needs",
    )

    def truncate(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])

    broken("truncated", truncate, "is truncated")

    def other_family(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "colqwen2"}))

    broken("family", other_family, "is declared as family 'colpali'|no family reads")

    def pickled(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    broken("pickled", pickled, "pickled weights are not read")
    broken("absent", lambda f: (f / "config.json").unlink(), r"config.json: cannot be read")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    folder = copy_checkpoint(ROOT / "tests/fixtures/pylate-bert", tmp_path / "checkpoint")
    name = "embeddings.word_embeddings.weight"
    rewrite(folder, lambda tensors: tensors[name][5].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=f"'{name}' holds NaN or infinite values"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_reference_makes_no_weights_up(checkpoint_folders, tmp_path):
    folder = copy_checkpoint(checkpoint_folders["colqwen2"], tmp_path / "missing")
    rewrite(folder, lambda tensors: tensors.pop("embedding_proj_layer.weight"))
    with pytest.raises(CheckpointError, match="1 missing weights, first 'embedding_proj_layer"):
        registry.get("colqwen2").reference(folder, "cpu")


def test_damaged_folders_are_refused(exported, tmp_path):
    def damaged(name):
        shutil.copytree(exported["colpali"], tmp_path / name)
        return tmp_path / name

    folder = damaged("truncated")
    weights = folder / "weights.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"weights.onnx_data: has \d+ bytes, colport.json says"):
        Encoder(folder)
    folder = damaged("gone")
    (folder / "text.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"text\.onnx: is missing"):
        Encoder(folder)
    with pytest.raises(ArtifactError, match="is not an exported folder"):
        Encoder(tmp_path)


def test_an_unknown_provider_and_an_absent_one(exported):
    with pytest.raises(ConfigError, match="'gpu' is unknown; allowed are cpu, cuda"):
        Encoder(exported["colpali"], "gpu")
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UnsupportedError, match="TensorrtExecutionProvider is not in this"):
            Encoder(exported["colpali"], "tensorrt")
