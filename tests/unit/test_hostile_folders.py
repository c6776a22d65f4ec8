"""Exported folders that were damaged or made to harm: one sentence, whatever is done with them."""

import json
import random
import shutil
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colport.base.errors import ArtifactError, ColPortError
from colport.base.files import sha256_file
from colport.cli.inspection import inspect
from colport.export.folder import export
from colport.folder import manifest
from colport.folder.graphs import convert
from colport.quantize.folder import quantize
from colport.report import model_card
from colport.runtime.encoder import Encoder
from colport.tensors import external_data
from colport.tensors.external_data import Layout
from tests.text_models import make_checkpoint

VALUES = (None, True, -1, 10**30, 1e308, "", "../x", "a\0b", "x" * 10_000, [], {}, [[]], {"a": [1]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An exported folder of some 70 kB."""
    root = tmp_path_factory.mktemp("tiny")
    export(make_checkpoint(root / "model", "bert"), root / "exported")
    return root / "exported"


def check_sentence(error):
    """One that a person can read."""
    assert len(str(error)) < 5000
    assert "\n" not in str(error)


def uses(folder: Path, output: Path) -> dict:
    """What people do with an exported folder, by name."""

    def encode():
        encoder = Encoder(folder)
        encoder.encode_queries(["a question", ""])
        encoder.encode_documents(["a passage"])

    return {
        "encode": encode,
        "inspect": lambda: inspect(folder),
        "quantize": lambda: quantize(folder, output),
        "merge": lambda: convert(folder, output, Layout("merge")),
        "shard": lambda: convert(folder, output, Layout("shard", 20_000)),
        "card": lambda: model_card.write(manifest.read(folder), "me/it", model_card.Measured()),
    }


def survives(folder: Path, output: Path) -> None:
    for use in uses(folder, output).values():
        try:
            use()
        except ColPortError as error:
            check_sentence(error)


def places(value, path=()):
    """The path to every value of a JSON document but the document itself."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


fuzzed = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@fuzzed
@given(st.randoms(use_true_random=False))
def test_a_manifest_of_any_values(whole, tmp_path, rng):
    folder = shutil.copytree(whole, tmp_path / "folder", dirs_exist_ok=True)
    record = json.loads((folder / manifest.FILE).read_text())
    for _ in range(rng.choice((1, 1, 2))):
        *above, key = rng.choice(list(places(record)))
        parent = record
        for step in above:
            parent = parent[step]
        if rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = rng.choice(VALUES)
    (folder / manifest.FILE).write_text(json.dumps(record))
    survives(folder, tmp_path / "output")


@fuzzed
@given(st.sampled_from(["colport.json", "text.onnx", "tokenizer.json"]), st.integers(0, 10**6))
def test_files_with_flipped_bytes(whole, tmp_path, name, seed):
    folder = shutil.copytree(whole, tmp_path / "folder", dirs_exist_ok=True)
    rng, content = random.Random(seed), bytearray((folder / name).read_bytes())
    for _ in range(rng.choice((1, 2, 8))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    (folder / name).write_bytes(content)
    survives(folder, tmp_path / "output")


def planted(whole, tmp_path, change) -> Path:
    """A copy whose graph is changed, with the digest and size to match."""
    folder = shutil.copytree(whole, tmp_path / "folder")
    model = onnx.load(folder / "text.onnx", load_external_data=False)
    change(model)
    (folder / "text.onnx").write_bytes(model.SerializeToString())
    record = json.loads((folder / manifest.FILE).read_text())
    record["files"]["text.onnx"] = {
        "sha256": sha256_file(folder / "text.onnx"),
        "size_bytes": (folder / "text.onnx").stat().st_size,
    }
    (folder / manifest.FILE).write_text(json.dumps(record))
    return folder


def weights_at(location, **more):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.external_data)
        for entry in tensor.external_data:
            entry.value = {"location": location, **more}.get(entry.key, entry.value)

    return change


LOCATIONS = (
    "../secret",
    "/etc/hostname",
    "link",
    "a/../../secret",
    "..\\secret",
    "C:\\x",
    "a\0b",
    "",
)


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_may_not_lie_elsewhere(location, whole, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(100_000))
    folder = planted(whole, tmp_path, weights_at(location))
    (folder / "link").symlink_to(tmp_path / "secret")
    for name, use in uses(folder, tmp_path / "output").items():
        if name == "card":
            continue  # reads no weights
        with pytest.raises(ArtifactError):
            use()
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("place", [{"offset": "-64"}, {"offset": "9" * 30}, {"length": "9" * 18}])
def test_weights_at_places_that_do_not_exist(place, whole, tmp_path):
    folder = planted(whole, tmp_path, weights_at("weights.onnx_data", **place))
    for name in ("encode", "inspect", "quantize", "merge"):
        with pytest.raises(ArtifactError):
            uses(folder, tmp_path / "output")[name]()


def test_a_node_that_lacks_an_input(whole, tmp_path):
    def change(model):
        del next(node for node in model.graph.node if node.op_type == "MatMul").input[1:]

    folder = planted(whole, tmp_path, change)
    with pytest.raises(ArtifactError, match="has 1 inputs and 1 outputs, which MatMul does not"):
        external_data.read(folder / "text.onnx")
    survives(folder, tmp_path / "output")


@pytest.mark.parametrize("name", ["..\\secret", "a\0b", "", "C:x", "a\nb"])
def test_names_that_mean_something_else_elsewhere(name, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "folder")
    record = json.loads((folder / manifest.FILE).read_text())
    record["files"][name] = {"sha256": "0" * 64, "size_bytes": 0}
    (folder / manifest.FILE).write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="which leaves the folder"):
        manifest.read(folder)


def test_a_tokenizer_of_an_absurd_size(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "folder")
    with (folder / "tokenizer.json").open("r+b") as stream:
        stream.truncate(2**33)
    record = json.loads((folder / manifest.FILE).read_text())
    record["files"]["tokenizer.json"]["size_bytes"] = 2**33
    (folder / manifest.FILE).write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"tokenizer.json: has 8589934592 bytes, more than"):
        Encoder(folder)
