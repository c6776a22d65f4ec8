"""The layout of transformers.js: run as it does, by itself on Node, and what it cannot hold."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from colport.base.errors import UnsupportedError
from colport.cli import app
from colport.export.folder import export
from colport.families import registry
from colport.folder import layouts, manifest
from colport.quantize.folder import quantize
from tests import caption_models

SCRIPT = Path(__file__).parents[1] / "transformers_js.mjs"
PACKAGE = "@huggingface/transformers@4.2.0"
FORMS = [("vit-gpt2", "fp32"), ("trocr", "fp32"), ("donut", "fp16"), ("trocr", "int8")]
SUFFIX = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
BATCH, LENGTH = 2, 20


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("captioners")


@pytest.fixture(scope="module")
def exported(root):
    """Folders of tiny captioners by name and precision, quantized ones after their base."""
    for name, precision in FORMS:
        if not (root / name).exists():
            caption_models.save(name, root / name)
        if precision == "int8":
            quantize(root / f"{name}-fp32", root / f"{name}-int8")
        else:
            export(root / name, root / f"{name}-{precision}", precision=precision)
    return {(name, precision): root / f"{name}-{precision}" for name, precision in FORMS}


@pytest.fixture(scope="module")
def published(exported, root):
    """The same in the layout of transformers.js, all in one folder."""
    for base in exported.values():
        layouts.publish(base, root / "js" / base.name, "transformers.js")
    return {form: root / "js" / base.name for form, base in exported.items()}


@pytest.fixture(scope="module")
def pixels(exported):
    """Random pictures of each model's size."""
    rng = np.random.default_rng(0)
    graphs = {form: session(base / "image.onnx") for form, base in exported.items()}
    sizes = {form: graph.get_inputs()[0].shape[1:] for form, graph in graphs.items()}
    return {form: rng.normal(size=(BATCH, *size)).astype("float32") for form, size in sizes.items()}


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(graph, feeds):
    names = [value.name for value in graph.get_outputs()]
    return dict(zip(names, graph.run(None, feeds), strict=True))


def empty_caches(decoder):
    """As transformers.js makes them: an axis that is not the batch's is empty."""
    made = {}
    for value in decoder.get_inputs():
        if value.name.startswith("past_key_values."):
            sizes = {"batch_size": BATCH, "batch": BATCH}
            shape = [dim if isinstance(dim, int) else sizes.get(dim, 0) for dim in value.shape]
            made[value.name] = np.zeros(shape, "float16" if "16" in value.type else "float32")
    return made


def greedy(decoder, feeds, steps):
    """Logits ``[batch, steps, vocabulary]``; what is given of the encoder stays that of step 0."""
    feeds = {**feeds, **empty_caches(decoder)}
    ids, logits = np.full((BATCH, 1), 1), []
    for step in range(steps):
        out = run(decoder, {"input_ids": ids, **feeds})
        logits.append(out.pop("logits")[:, -1])
        ids = logits[-1].argmax(-1)[:, None]
        past = {name.replace("present", "past_key_values"): out[name] for name in out}
        feeds |= {name: past[name] for name in past if step == 0 or ".encoder." not in name}
    return np.stack(logits, 1)


def as_exported(base, pixels, steps):
    """Logits by the exported folder's own graphs."""
    feeds = run(session(base / "image.onnx"), {"pixel_values": pixels})
    del feeds["encoder_hidden_states"]
    return greedy(session(base / "decoder.onnx"), feeds, steps)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_the_graphs_compute_what_the_folders_own_do(form, exported, published, pixels):
    folder, suffix = published[form] / "onnx", SUFFIX[form[1]]
    encoder = session(folder / f"encoder_model{suffix}.onnx")
    (states,) = run(encoder, {"pixel_values": pixels[form]}).values()
    decoder = session(folder / f"decoder_model_merged{suffix}.onnx")
    found = greedy(decoder, {"encoder_hidden_states": states}, steps=6)
    wanted = as_exported(exported[form], pixels[form], steps=6)
    assert np.array_equal(found.argmax(-1), wanted.argmax(-1))
    assert np.abs(found - wanted).max() < (2e-2 if form[1] == "fp16" else 1e-4)


CACHES = [(FORMS[0], [""]), (FORMS[1], ["decoder.", "encoder."])]


@pytest.mark.parametrize(("form", "caches"), CACHES)
def test_names_axes_and_settings_are_those_of_transformers_js(form, caches, exported, published):
    folder = published[form]
    decoder = session(folder / "onnx/decoder_model_merged.onnx")
    shapes = {value.name: value.shape for value in decoder.get_inputs()}
    assert shapes.pop("input_ids") == ["batch_size", "decoder_sequence_length"]
    assert shapes.pop("encoder_hidden_states")[0] == "batch_size"
    parts = [f"{cache}{part}" for cache in caches for part in ("key", "value")]
    layers = range(caption_models.LAYERS)
    assert shapes.keys() == {f"past_key_values.{n}.{part}" for n in layers for part in parts}
    assert {shape[0] for shape in shapes.values()} == {"batch_size"}
    given = {value.name for value in decoder.get_outputs()}
    assert given == {"logits", *(name.replace("past_key_values", "present") for name in shapes)}
    (states,) = session(folder / "onnx/encoder_model.onnx").get_outputs()
    assert states.name == "last_hidden_state"
    settings = json.loads((folder / "config.json").read_text())["transformers.js_config"]
    files = {f"{name}.onnx": 1 for name in ("encoder_model", "decoder_model_merged")}
    assert settings == {"dtype": "fp32", "use_external_data_format": files}
    own = (exported[form] / "weights.onnx_data").stat().st_size
    written = sum((folder / f"onnx/{name}_data").stat().st_size for name in files)
    assert written <= own + 2**13  # no weight is there twice


def package():
    """A folder from which Node finds transformers.js; its install script wants the network."""
    folder = Path(sys.prefix) / "transformers.js"
    if not (folder / "node_modules/@huggingface/transformers/package.json").is_file():
        if not shutil.which("npm"):
            pytest.skip("npm is not installed here")
        folder.mkdir(exist_ok=True)
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
        if subprocess.run(install, cwd=folder, capture_output=True, check=False).returncode:
            pytest.skip(f"npm cannot install {PACKAGE} here")
    return folder


def test_texts_of_transformers_js_are_those_of_generate(exported, published, pixels, root):
    folder = package()
    shutil.copy(SCRIPT, folder)
    cases = {
        published[form].name: {"pixels": given.ravel().tolist(), "shape": given.shape}
        for form, given in pixels.items()
    }
    (root / "cases.json").write_text(json.dumps(cases))
    command = ["node", SCRIPT.name, f"{root / 'js'}/", root / "cases.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, seen = json.loads(done.stdout), set()
    for name, precision in FORMS:
        given, of = pixels[name, precision], found[published[name, precision].name]
        if precision == "fp32":
            library = registry.detect(root / name).reference(root / name, "cpu").module
            ids = library.generate(torch.from_numpy(given), num_beams=1, max_length=LENGTH).numpy()
        else:
            ids = as_exported(exported[name, precision], given, LENGTH - 1).argmax(-1)
            ids = np.insert(ids, 0, 1, axis=1)
            ids[:, -1] = 2 if name == "donut" else ids[:, -1]  # forced by its settings
        for wanted, row in zip(ids.tolist(), of["tokens"], strict=True):
            end = wanted.index(2) + 1 if 2 in wanted else LENGTH  # it goes on behind a row's end
            assert row[:end] == wanted[:end]
        seen |= set(ids.ravel().tolist())
        kind = {"vit-gpt2": "ViT", "trocr": "DeiT", "donut": "Donut"}[name]
        assert of["processor"] == f"{kind}ImageProcessor"
        assert "word" in of["texts"][0]
    assert len(seen) > 8  # more than a token over and over


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"precision": "bf16"}, "'bf16'; of precisions, allowed are fp32, fp16, int8, int4."),
        (
            {"task": "retrieval", "family": "x"},
            "'x'; of models, allowed are vision-encoder-decoder.",
        ),
    ],
)
def test_what_it_cannot_hold_is_refused_and_nothing_written(change, sentence, exported, tmp_path):
    base = shutil.copytree(exported[FORMS[0]], tmp_path / "base")
    record = json.loads((base / manifest.FILE).read_text())
    (base / manifest.FILE).write_text(json.dumps({**record, **change}))
    command = ["publish", str(base), "--layout", "transformers.js", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UnsupportedError)
    assert str(done.exception).endswith(f"transformers.js has no such graphs of {sentence}")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_push_of_the_layout_shows_its_files_and_its_readme(exported):
    base = exported[FORMS[0]]
    command = ["push", str(base), "me/it", "--layout", "transformers.js", "--dry-run"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "onnx/decoder_model_merged.onnx_data" in done.output
    assert "library_name: transformers.js" in done.output
    assert "colport.json" not in done.output
    refused = CliRunner().invoke(app, [*command, "--parity", "parity.json"])
    assert "takes no records" in refused.output
    assert not list(base.parent.glob(".*"))
