"""``colport explain``: a page under its heat, from the command line."""

import inspect
import shlex

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from colport import cli
from colport.base.errors import DatasetError, UnsupportedError


@pytest.fixture
def page(tmp_path):
    Image.radial_gradient("L").resize((90, 120)).convert("RGB").save(tmp_path / "page.png")
    return tmp_path / "page.png"


def explain(*arguments, query: str = "années 図表"):
    given = ["explain", *map(str, arguments), "--query", query]
    return CliRunner().invoke(cli.app, given)


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
def test_pytorch_beside_an_exported_folder(exported, checkpoint_folders, page, tmp_path, family):
    output = tmp_path / "heat.png"
    checkpoint = ("--checkpoint", checkpoint_folders[family])
    done = explain(exported[family], "--page", page, "-o", output, *checkpoint)
    assert done.exit_code == 0, done.output
    first, other = (block.splitlines() for block in done.stdout.split("PyTorch: ")[1].split(family))
    assert first[0].startswith("MaxSim ")
    assert [line.split()[:2] for line in first[1:]] == [line.split()[:2] for line in other[1:]]
    assert float(first[0].split()[1]) == pytest.approx(float(other[0].split()[2]), abs=1e-3)
    assert len(other) == 5
    with Image.open(output) as heat:
        assert heat.format == "PNG"
        assert heat.height > 2 * 560  # a row each
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_wrong_inputs_write_nothing(exported, page, tmp_path):
    output = tmp_path / "heat.png"
    done = explain(exported["colbert"], "--page", page, "-o", output)
    assert isinstance(done.exception, UnsupportedError)
    assert "a passage has no patches" in str(done.exception)
    for wrong in (tmp_path, tmp_path / "absent.png"):
        done = explain(exported["colpali"], "--page", wrong, "-o", output)
        assert isinstance(done.exception, DatasetError)
    assert explain(exported["colpali"], "--page", page, "-o", tmp_path / "heat.jpg").exit_code == 2
    assert not output.exists()


def test_help_shows_an_example_that_parses():
    command = typer.main.get_command(cli.app).commands["explain"]
    example = inspect.cleandoc(command.callback.__doc__).split("Example: ")[1]
    command.make_context("explain", shlex.split(example)[2:])
