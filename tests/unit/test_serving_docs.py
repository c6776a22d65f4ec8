"""docs/serving.md: its figures are the code's, its commands run as typed."""

import re
import shlex
import shutil
import sys
from dataclasses import fields

import pytest
from PIL import Image
from typer.testing import CliRunner

from colport import cli
from colport.data.documents import PageSettings
from tests.conftest import ROOT

PAGE = (ROOT / "docs/serving.md").read_text()
COMMANDS = re.findall(r"^colport (.+)$", PAGE, re.M)


def test_every_command_runs_as_typed(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/colpali").symlink_to(exported["colpali"])
    (tmp_path / "reports").mkdir()
    Image.new("RGB", (90, 120), "red").save(tmp_path / "reports/a.png")
    shutil.copy(tmp_path / "reports/a.png", tmp_path / "scan.png")
    (tmp_path / "queries.txt").write_text("revenue by year\n")
    assert [command.split()[0] for command in COMMANDS] == ["search", "encode", "encode"]
    for command in COMMANDS:
        done = CliRunner().invoke(cli.app, shlex.split(command))
        assert done.exit_code == 0, (command, done.output)


def test_figures_are_those_of_the_code(monkeypatch):
    assert f"drawn at {PageSettings.dpi} DPI" in PAGE
    pytest.importorskip("fastapi", reason="envs/dev.txt has it")
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples/serving"), *sys.path])
    import service

    limits = {field.name: field.default for field in fields(service.Limits)}
    told = " ".join(PAGE.split())
    assert limits["request_bytes"] == 64 * 2**20
    assert f"{limits['inputs']} inputs and 64 MiB, a page 50 million pixels" in told
    assert limits["page_pixels"] == 50_000_000
    assert "all pages of a request 100 million" in told
    assert limits["request_pixels"] == 100_000_000
    assert (
        f"{1000 * limits['wait_s']:g} ms longer, share the next one, up to {limits['batch']}"
        in told
    )
    assert f"Beyond {limits['waiting']} waiting inputs" in told
