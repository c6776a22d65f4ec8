"""From an empty folder with a space in its name: it runs, and follows what lies behind a path."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file, save_file

from .conftest import ROOT, Run

TARGETS = ("results/checkpoints/mine.json", "results/datasets/own.json")
CONFIG = {
    "run": {"models": ["mine"], "variants": ["fp32"], "providers": ["cpu"]},
    "models": {
        "mine": {
            "family": "colbert",
            "checkpoint": {"path": "~/latest"},
            "datasets": ["demo-passages", "own"],
        }
    },
    "datasets": {"own": {"path": "passages", "schema": "beir", "documents": "passages"}},
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory that holds a dataset, with a checkpoint behind a link in the home."""
    folder, home = tmp_path / "my run", tmp_path / "home"
    folder.mkdir()
    shutil.copytree(ROOT / "resources/datasets/demo-passages", folder / "passages")
    for name in ("one", "two"):
        shutil.copytree(ROOT / "tests/fixtures/pylate-bert", home / name)
    (home / "latest").symlink_to("one")
    file = home / "two/model.safetensors"
    save_file({key: -value for key, value in load_file(file).items()}, file, {"format": "pt"})
    for inner in (home / "two").rglob("*"):
        os.utime(inner, (1.6e9, 1.6e9))
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "my python").symlink_to(sys.prefix)
    (folder / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


def snakemake(folder, *arguments) -> Run:
    python = folder.parent / "my python/bin/python"
    command = [python, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
    command += [*arguments, "--configfile", "mine.yaml"]
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, check=False
    )
    return Run(done.returncode, done.stdout + done.stderr)


def test_it_runs_and_reruns_for_what_is_at_a_path_now(elsewhere):
    first = snakemake(elsewhere, *TARGETS)
    assert first.code == 0, first.output[-3000:]
    assert sorted(first.jobs) == ["checkpoint", "dataset"]
    (elsewhere.parent / "home/one/.cache").mkdir()
    (elsewhere.parent / "home/one/.cache/config.json").touch()
    assert snakemake(elsewhere, *TARGETS, "--dry-run").jobs == []

    link = elsewhere.parent / "home/latest"
    link.unlink()
    link.symlink_to("two")  # older files
    assert snakemake(elsewhere, *TARGETS, "--dry-run").jobs == ["checkpoint"]
    link.unlink()
    link.symlink_to("one")
    page = next((elsewhere / "passages").rglob("*.parquet"))
    os.utime(page, (1.6e9, 1.6e9))
    assert snakemake(elsewhere, *TARGETS, "--dry-run").jobs == ["dataset"]
