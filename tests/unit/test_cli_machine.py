"""``colport env``, ``list`` and ``latency``; ``encode_query`` and ``encode_document``."""

import inspect
import json
import re
import shlex
import shutil

import numpy as np
import onnxruntime
import pytest
import typer
from typer.testing import CliRunner

from colport import Encoder, cli
from colport.base import machine
from colport.base.errors import UnsupportedError
from colport.families import registry
from colport.pipeline import variants
from colport.providers import PROVIDERS
from tests.page_models import page


def said(*arguments):
    done = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", ["encode", "search", "env", "list", "latency"])
def test_help_shows_an_example_that_parses(name):
    command = typer.main.get_command(cli.app).commands[name]
    example = inspect.cleandoc(command.callback.__doc__).split("Example: ")[1]
    assert shlex.split(example)[:2] == ["colport", name]
    command.make_context(name, shlex.split(example)[2:])


def test_env_is_what_results_say_and_more():
    found = json.loads(said("env"))
    described = machine.describe()
    assert {name: found[name] for name in described} == described
    assert found["providers"] == onnxruntime.get_available_providers()
    assert found["processor_class"] == machine.processor_class(described)
    assert found["threads"] >= 1
    assert 0 < found["available_mb"] <= 1.1 * found["memory_mb"]


def rows(what):
    return dict(
        re.match(r"(\S+)\s+(.+)", line).groups() for line in said("list", what).splitlines()
    )


def test_lists():
    models = rows("models")
    assert list(models) == list(registry.NAMES)
    assert models["colpali"].startswith("pages: ")
    assert models["colbert"].startswith("passages: ")
    assert models["blip"].startswith("captioning: ")
    assert list(rows("variants")) == list(variants.ready_made())
    providers = rows("providers")
    assert list(providers) == list(PROVIDERS)
    assert providers["cpu"] == "here"
    assert providers["coreml"] == "not here; needs onnxruntime (macOS)"
    assert CliRunner().invoke(cli.app, ["list", "nothing"]).exit_code == 2


def test_latency_of_a_folder_and_beside_its_checkpoint(exported, checkpoint_folders, monkeypatch):
    monkeypatch.setattr(
        "colport.cli.inspection._SETTINGS",
        {"batch_sizes": (1, 8), "rounds": 1, "min_samples": 1, "max_seconds": 0.1, "min_seconds": 0}
        | {"warmup_max_calls": 1, "quiet_wait_s": 0},
    )
    lines = said("latency", exported["colpali"], "-q").splitlines()
    cases = ("query    batch 1", "query    batch 8", "document batch 1", "document batch 8")
    for line, case in zip(lines, cases, strict=True):
        assert re.match(rf"colpali          {case}  p50 [\d.]+ ms", line)
        assert "PyTorch" not in line
    checkpoint = ("--checkpoint", checkpoint_folders["colpali"])
    lines = said("latency", exported["colpali"], *checkpoint, "-q").splitlines()
    assert [line.split()[0] for line in lines] == ["pytorch"] * 4 + ["colpali"] * 4
    for line in lines:
        assert re.search(r"p50 [\d.]+ ms, [\d.]+. PyTorch", line)
    done = CliRunner().invoke(
        cli.app, ["latency", str(exported["colpali"]), "--provider", "coreml"]
    )
    assert isinstance(done.exception, UnsupportedError) or "CoreML" in done.stdout


def test_latency_is_beside_the_checkpoint_of_the_folder(exported, checkpoint_folders, tmp_path):
    folder, own = shutil.copytree(exported["colpali"], tmp_path / "own"), {"weights": {"a": "b"}}
    manifest = json.loads((folder / "colport.json").read_text())
    (folder / "colport.json").write_text(json.dumps({**manifest, "source": own}))

    def refused(checkpoint):
        arguments = ("latency", folder, "--checkpoint", checkpoint, "-q")
        return str(CliRunner().invoke(cli.app, [*map(str, arguments)]).exception)

    assert "colqwen2" in refused(checkpoint_folders["colqwen2"])
    other = checkpoint_folders["colpali"]
    assert refused(other) == f"{other}: has other weights than those behind {folder}."


def test_one_in_one_out(exported):
    """As sentence-transformers: one text gives one array, several give a list."""
    encoder = Encoder(exported["colpali"])
    texts, pages = ["a query", "another one"], [page(90, 120), page(60, 60)]
    for single, plural, given in (
        (encoder.encode_query, encoder.encode_queries, texts),
        (encoder.encode_document, encoder.encode_documents, pages),
    ):
        expected = plural(given)
        np.testing.assert_array_equal(single(given[0]), plural(given[:1])[0])
        for some in (given, tuple(given), iter(given)):
            found = single(some, batch_size=2)
            assert isinstance(found, list)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
        assert single([]) == []
    with pytest.raises(TypeError, match="queries: found NoneType"):
        encoder.encode_query(None)
    with pytest.raises(TypeError, match=r"documents\[0\]: found str; allowed is a Pillow image"):
        encoder.encode_document("a text")
    with pytest.raises(TypeError, match=r"queries\[0\]: found Image; allowed is a text"):
        encoder.encode_query(pages[0])
