"""What takes an exported folder for one, and what a hostile or damaged folder gets."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from colport import Encoder
from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.files import sha256_file
from colport.cli.inspection import inspect
from colport.export import record as export_record
from colport.folder import graphs, manifest
from colport.folder.graphs import convert
from colport.quantize.folder import quantize
from colport.tensors.external_data import Layout

READERS = {
    "manifest": manifest.read,
    "encoder": Encoder,
    "inspect": lambda folder: inspect(folder, False, True, True),
    "convert": lambda folder: convert(folder, folder.parent / "out", Layout("merge")),
    "quantize": lambda folder: quantize(folder, folder.parent / "out"),
}


def test_a_graph_is_described_with_all_that_is_in_it():
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 21]>
        g (bool c, float[batch, 3] x) => (float[batch, 3] y) {
            w = Add(x, weight)
            y = If(c) <then_branch = t () => (float[batch, 3] a) { a = Neg(w) },
                       else_branch = e () => (float[batch, 3] b) { b = Abs(w) }>
        }""",
        initializers=[ir.tensor(np.zeros((5, 3), np.float32), name="weight")],
    )
    found = graphs.describe("text", model)
    assert (found.file, found.nodes, found.parameters) == ("text.onnx", 4, 15)
    assert found.inputs == {
        "c": {"dtype": "bool", "shape": []},
        "x": {"dtype": "float", "shape": ["batch", 3]},
    }
    assert found.outputs == {"y": {"dtype": "float", "shape": ["batch", 3]}}


def test_a_graph_is_as_large_as_its_file_and_all_weights(tmp_path):
    sizes = {"text.onnx": 100, "image.onnx": 50, "a.onnx_data": 2000, "b.onnx_data": 3000}
    for name, size in {**sizes, "colport.json": 7}.items():
        (tmp_path / name).write_bytes(bytes(size))
    found = SimpleNamespace(
        opset=24,
        external_data={"files": ["a.onnx_data", "b.onnx_data"]},
        graphs={
            name: SimpleNamespace(file=f"{name}.onnx", parameters=parameters, nodes=nodes)
            for name, parameters, nodes in (("text", 10, 3), ("image", 20, 4))
        },
    )
    labels = {"model": "m", "family": "colpali", "variant": "fp32"}
    cost = {"seconds": 1.5, "peak_rss_mb": 80.0}
    rows = export_record.record(found, tmp_path, labels, cost)["rows"]
    shown = ("graph", "parameters", "nodes", "size_bytes", "folder_bytes", "weight_files")
    assert [[row[name] for name in shown] for row in rows] == [
        ["text", 10, 3, 5100, 5157, 2],
        ["image", 20, 4, 5050, 5157, 2],
    ]
    assert all(
        row.items() >= {**labels, **cost, "opset": 24, "status": "ok"}.items() for row in rows
    )


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    (tmp_path / "secret").write_bytes(bytes(10**7))
    return shutil.copytree(exported["colpali"], tmp_path / "folder")


def rewrite(folder: Path, change) -> None:
    """Apply ``change`` to the content of ``colport.json``."""
    record = json.loads((folder / manifest.FILE).read_text())
    change(record)
    (folder / manifest.FILE).write_text(json.dumps(record))


def plant(folder: Path, place) -> None:
    """Change ``text.onnx`` and keep ``colport.json`` in accord with it."""
    file = folder / "text.onnx"
    model = onnx.load(file, load_external_data=False)
    place(model)
    file.write_bytes(model.SerializeToString())
    facts = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
    rewrite(folder, lambda record: record["files"].update({"text.onnx": facts}))


def point_to(location: str):
    def place(model):
        stored = [tensor for tensor in model.graph.initializer if tensor.external_data]
        for entry in stored[0].external_data:
            if entry.key == "location":
                entry.value = location

    return place


def hide_in_a_constant(model) -> None:
    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("location", ["../secret", "inner/../../secret", "/etc/hostname", "link"])
def test_weights_may_not_leave_the_folder(folder, reader, location):
    (folder / "link").symlink_to(folder.parent / "secret")
    plant(folder, point_to(location))
    if reader == "manifest":
        manifest.verify(folder)  # it is the graph that is hostile
        return
    with pytest.raises(ArtifactError, match=r"lies outside its folder|escapes model dir|Absolute"):
        READERS[reader](folder)
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("reader", ["inspect", "convert", "quantize"])
def test_nor_may_a_tensor_that_is_no_weight(folder, reader):
    plant(folder, hide_in_a_constant)
    with pytest.raises(ArtifactError, match=r"'hidden' is in '\.\./secret', which lies outside"):
        READERS[reader](folder)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: record["files"].update(
                {"../secret": {"sha256": "0" * 64, "size_bytes": 10**7}}
            ),
            "lists '../secret', which leaves the folder",
        ),
        (
            lambda record: record["files"].update(
                {"/etc/hostname": {"sha256": "0" * 64, "size_bytes": 1}}
            ),
            "lists '/etc/hostname', which leaves the folder",
        ),
        (
            lambda record: record["graphs"]["text"].update(file="../text.onnx"),
            "uses '../text.onnx', which its files do not list",
        ),
        (
            lambda record: record["external_data"].update(files=["../secret"]),
            "uses '../secret', which its files do not list",
        ),
        (lambda record: record.pop("graphs"), r"is not a ColPort manifest \(graphs is missing\)"),
        (lambda record: record["files"].update({"text.onnx": {}}), "is not a ColPort manifest"),
        (lambda record: record.update(files=[]), "is not a ColPort manifest"),
    ],
)
def test_a_manifest_that_is_wrong(folder, reader, change, message):
    rewrite(folder, change)
    with pytest.raises(ArtifactError, match=message):
        READERS[reader](folder)


def test_reading_trusts_sizes_and_verifying_does_not(folder):
    tokenizer = folder / "tokenizer.json"
    content = bytearray(tokenizer.read_bytes())
    content[100] ^= 1
    tokenizer.write_bytes(content)
    manifest.read(folder)
    with pytest.raises(ArtifactError, match=r"tokenizer.json: sha256 is \w+, colport.json says"):
        manifest.verify(folder)


def test_verifying_reports_its_progress(folder):
    seen: list[tuple[int, int]] = []
    found = manifest.verify(folder, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(f["size_bytes"] for f in found.files.values())


def test_the_digest_is_that_of_the_content(folder, exported):
    assert manifest.read(folder).digest == manifest.read(exported["colpali"]).digest
    assert manifest.read(folder).digest != manifest.read(exported["colqwen2"]).digest


def test_the_size_is_that_of_all_files(folder):
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != manifest.FILE)
    assert manifest.read(folder).size_mb == size / 10**6


def test_a_download_in_the_hub_s_cache_is_whole(folder, tmp_path):
    cache = tmp_path / "models--me--colpali"
    snapshot, blobs = cache / "snapshots" / ("0" * 40), cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        shutil.copy(file, blobs / sha256_file(file))
        (snapshot / file.name).symlink_to(Path("../../blobs") / sha256_file(file))
    manifest.verify(snapshot)
    assert Encoder(snapshot).encode_queries(["a query"])[0].shape[1] == 128
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    with pytest.raises(ArtifactError, match="which leaves the folder"):
        manifest.read(snapshot)


def test_what_is_no_exported_folder_is_named(exported, checkpoint_folders, tmp_path):
    def said(folder) -> str:
        with pytest.raises(ArtifactError, match="is not an exported folder") as error:
            Encoder(folder)
        return str(error.value)

    assert "there is no such folder" in said(tmp_path / "absent")
    assert "it has no colport.json" in said(tmp_path)
    assert "holds exported folders: colbert, colpali, colqwen2" in said(exported["colbert"].parent)
    assert "it is a file" in said(exported["colbert"] / "text.onnx")
    checkpoint = checkpoint_folders["colpali"]
    assert f"export it first: colport export {checkpoint}" in said(checkpoint)


def test_tensors_that_no_graph_reads_are_listed(exported, tmp_path):
    found = manifest.read(exported["colbert"]).unread
    assert [row["tensor"] for row in found] == [
        "embeddings.position_ids",
        "pooler.dense.bias",
        "pooler.dense.weight",
    ]
    assert {row["file"] for row in found} == {"model.safetensors"}
    assert found[0]["reason"] == "computed, not read"
    shutil.copytree(exported["colbert"], tmp_path / "older")
    file = tmp_path / "older/colport.json"
    older = json.loads(file.read_text())
    del older["unread"]
    file.write_text(json.dumps(older))
    assert manifest.read(tmp_path / "older").unread == ()


def test_only_exported_folders_are_replaced(folder, tmp_path):
    from colport.base.files import write_unsupported

    (tmp_path / "empty").mkdir()
    write_unsupported(tmp_path / "unsupported", "no")
    for replaceable in (folder, tmp_path / "empty", tmp_path / "absent", tmp_path / "unsupported"):
        manifest.check_replaceable(replaceable)
    for other in (tmp_path, tmp_path / "secret"):
        with pytest.raises(ArtifactError, match="exists and is not an exported folder"):
            manifest.check_replaceable(other)
    with pytest.raises(UnsupportedError, match=r"^no$"):
        manifest.verify(tmp_path / "unsupported")
