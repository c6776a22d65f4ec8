"""A folder is run before it has its name: what passes, what is refused, what is said of it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx_ir
import pytest
import torch

from colport.base.errors import CheckpointError, ExportError, ParityError
from colport.export.folder import export
from colport.families import registry
from colport.folder import manifest
from colport.pipeline import proof
from colport.quantize.folder import quantize
from tests.text_models import make_checkpoint, rewrite

FAMILIES = ("colbert", "colpali", "colqwen2")
LARGE = 6.0e4  # a weight that fits fp16


@pytest.fixture(scope="module")
def known(checkpoint_folders):
    """What each checkpoint's own library gives."""
    return {
        name: proof.reference(checkpoint_folders[name], registry.get(name)) for name in FAMILIES
    }


def check(folder, embeddings, *arguments):
    return proof.by_checkpoint(lambda: embeddings, *arguments)(folder, manifest.read(folder))


def changed(embeddings, kind, change):
    return {**embeddings, kind: [change(rows.copy()) for rows in embeddings[kind]]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_folder_passes_and_says_how(exported, known, family):
    said = []
    found = check(exported[family], known[family], None, said.append)
    assert (found["status"], found["against"], found["batch_sizes"]) == (
        *("passed", "checkpoint"),
        [1, 2],
    )
    assert found["tolerance"] == "max_abs_diff<=0.0001 min_cosine>=0.99999"
    assert [row["kind"] for row in found["rows"]] == ["query", "document"]
    assert all(row["inputs"] == 2 and row["passed"] for row in found["rows"])
    lengths = [len(rows) for rows in known[family]["query"]]
    assert found["rows"][0]["tokens"] == sum(lengths)
    assert said == ["checked against its checkpoint: least cosine 1.000000"]


def test_the_checkpoint_takes_no_more_memory_than_it_may(checkpoint_folders, known):
    family, asked = registry.get("colpali"), []

    class Watched:
        task, document_type = family.task, family.document_type

        def reference(self, folder, device, memory_mb):
            opened = family.reference(folder, device, memory_mb)
            asked.append((opened.room.is_streamed, opened.room.allowed_mb))
            return opened

    for memory in (1, 10_000):
        found = proof.reference(checkpoint_folders["colpali"], Watched(), memory)
        for kind, rows in known["colpali"].items():
            for one, other in zip(found[kind], rows, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
    assert asked == [(True, 1), (False, 6000)], "more than it needs is not taken"


def test_inputs_are_of_every_kind_and_differ_in_shape():
    pages = proof.documents("pages")
    assert len({page.size for page in pages}) == len(pages) == 2
    assert pages == proof.documents("pages")  # the same on every machine
    for texts in (proof.documents("passages"), proof.QUERIES):
        assert len({len(text) for text in texts}) == len(texts) == 2


@pytest.mark.parametrize("kind", ["query", "document"])
def test_a_folder_that_is_off_is_refused(exported, known, kind):
    turned = changed(known["colpali"], kind, lambda rows: np.roll(rows, 1, axis=1))
    with pytest.raises(ParityError, match=rf"not written, since .* \({kind}: max_abs_diff"):
        check(exported["colpali"], turned)


def test_the_tolerance_is_the_one_that_is_given(exported, known):
    """A part in a thousand is beyond what fp32 may lose, and within what this variant may."""
    near = changed(known["colpali"], "query", lambda rows: rows + np.float32(1e-3))
    with pytest.raises(ParityError, match=r"0\.001 > 0\.0001"):
        check(exported["colpali"], near)
    assert check(exported["colpali"], near, {"max_abs_diff": 2e-3})["status"] == "passed"


def test_what_cannot_be_compared_is_refused_whatever_is_allowed(exported, known):
    shorter = changed(known["colpali"], "document", lambda rows: rows[1:])
    loose = dataclasses.replace(
        proof.by_checkpoint(lambda: shorter, {"min_cosine": -1.0}), strict=False
    )
    with pytest.raises(ParityError, match=r"document: .*shape"):
        loose(exported["colpali"], manifest.read(exported["colpali"]))


@pytest.mark.parametrize("strict", [True, False])
def test_a_loss_of_a_quantized_folder_is_refused_or_recorded(exported, tmp_path, strict):
    """The pipeline records it: parity measures it, and the gate fails the run after the report."""
    prove = proof.by_base(exported["colpali"], {"min_cosine": 1.0}, strict=strict)
    if strict:
        with pytest.raises(ParityError, match=r"what its base gives \(query: min_cosine 0\.\d+ <"):
            quantize(exported["colpali"], tmp_path / "int8", prove=prove)
        assert list(tmp_path.iterdir()) == []
        return
    found = quantize(exported["colpali"], tmp_path / "int8", prove=prove)
    assert found.check["status"] == "failed"
    assert [row["passed"] for row in found.check["rows"]] == [False, False]


def test_a_quantized_folder_is_compared_with_its_base(exported, tmp_path):
    prove = proof.by_base(exported["colpali"])
    found = quantize(exported["colpali"], tmp_path / "int8", prove=prove)
    assert manifest.verify(tmp_path / "int8").check == found.check
    assert (found.check["status"], found.check["against"]) == ("passed", "base")
    assert found.check["base"] == "left out"  # the fixtures' exports are not checked
    assert 0.9 < found.check["rows"][0]["min_cosine"] < 0.99999
    assert found.check["tolerance"] == "min_cosine>=0.87"
    assert names(tmp_path) == {"int8"}


@pytest.mark.parametrize(
    ("check", "said"), [({"status": "failed"}, "failed"), ({}, "not recorded")]
)
def test_what_is_known_of_a_base_is_said(check, said, monkeypatch, tmp_path):
    monkeypatch.setattr(manifest, "read", lambda folder: SimpleNamespace(check=check))
    assert proof.by_base(tmp_path).record == {"against": "base", "base": said}


def names(folder):
    return {item.name for item in folder.iterdir()}


def test_the_check_comes_before_the_name(exported, tmp_path):
    output = tmp_path / "int8"

    def prove(folder, found):
        assert not output.exists()
        assert manifest.verify(folder).files == found.files
        raise ExportError("found wanting")

    with pytest.raises(ExportError, match="found wanting"):
        quantize(exported["colpali"], output, prove=prove)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_its_runtime_cannot_open_is_refused(exported, known, tmp_path):
    folder = shutil.copytree(exported["colqwen2"], tmp_path / ".out.01234567.part")
    file = folder / manifest.FILE
    record = json.loads(file.read_text())
    record["processing"]["image"]["min_pixels"] = None
    file.write_text(json.dumps(record))
    with pytest.raises(ExportError) as caught:
        check(folder, known["colqwen2"])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'out'}: is not written, since its own runtime cannot")
    assert "min_pixels" in message
    assert ".part" not in message


def test_a_library_that_fails_is_named():
    class Broken:
        document_type = "passages"

        def reference(self, folder, device, memory_mb):
            raise ImportError("No module named 'bits'")

    with pytest.raises(CheckpointError, match=r"its own library cannot run it.*No module named"):
        proof.reference("somewhere", Broken())


def test_kept_embeddings_are_those_that_were_given(known, tmp_path):
    proof.save(known["colqwen2"], tmp_path / "known.npz")
    read = proof.load(tmp_path / "known.npz")
    assert read.keys() == known["colqwen2"].keys()
    for kind, expected in known["colqwen2"].items():
        for one, other in zip(read[kind], expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A small BERT in fp16: as it is, and with a second layer norm that undoes a large factor."""
    root = tmp_path_factory.mktemp("half")
    healthy = make_checkpoint(root / "healthy", "bert")
    large = shutil.copytree(healthy, root / "large")

    def grow(tensors):
        name = next(key for key in tensors if key.endswith("layer.0.output.dense.weight"))
        tensors[name] *= LARGE / tensors[name].abs().max()

    rewrite(large / "model.safetensors", grow)
    for name in ("healthy", "large"):
        export(root / name, root / f"{name}-fp16", precision="fp16")
    return root


def test_fp16_that_overflows_is_refused_by_operator(half):
    """In fp32, in which ONNX Runtime's CPU computes fp16, the folder equals its checkpoint."""
    expected = proof.reference(half / "large", registry.get("colbert"))
    with pytest.raises(ParityError, match=r"MatMul '.+' of the text graph gives .*ends at 65504"):
        check(half / "large-fp16", expected)


def test_fp16_that_fits_passes_and_says_how_large_it_becomes(half):
    found = check(half / "healthy-fp16", proof.reference(half / "healthy", registry.get("colbert")))
    assert (found["status"], found["computed_in"]) == ("passed", "fp32")
    assert all(0 < row["largest_activation"] < 1000 for row in found["rows"])
    assert torch.isfinite(torch.tensor([row["min_cosine"] for row in found["rows"]])).all()
    assert manifest.read(half / "healthy-fp16").check == {"status": "left out"}


def test_fp16_that_cannot_be_opened_is_refused_though_its_copy_in_fp32_can(half, tmp_path):
    folder = shutil.copytree(half / "healthy-fp16", tmp_path / "fp16")
    found, model = manifest.read(folder), onnx_ir.load(folder / "text.onnx")
    node = next(node for node in model.graph if node.op_type == "Add")
    wide = onnx_ir.node("Cast", [node.inputs[0]], {"to": onnx_ir.DataType.FLOAT})
    node.replace_input_with(0, wide.outputs[0])
    model.graph.insert_before(node, wide)
    onnx_ir.save(model, folder / "text.onnx")
    expected = proof.reference(half / "healthy", registry.get("colbert"))
    with pytest.raises(ExportError, match=r"cannot run it: .*float"):
        proof.by_checkpoint(lambda: expected)(folder, found)


def test_bf16_is_checked_without_kernels_for_it(half, tmp_path):
    export(half / "healthy", tmp_path / "bf16", precision="bf16")
    found = check(tmp_path / "bf16", proof.reference(half / "healthy", registry.get("colbert")))
    assert (found["status"], found["computed_in"]) == ("passed", "fp32")
    assert names(tmp_path) == {"bf16"}
