"""A disk that runs full in mid-write: one clear error, nothing left, and a rerun that finishes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from colport.base import files
from colport.base.errors import ArtifactError
from colport.folder.graphs import convert
from colport.quantize.folder import quantize
from colport.tensors.external_data import Layout
from tests import small_disk

ROOT = Path(__file__).parents[2]


def run(kind: str, folder: Path, operations: list[str], *sources: Path) -> list[dict]:
    arguments = [kind, *map(str, sources), str(folder), *operations]
    done = subprocess.run(
        [
            *(small_disk.OWN_MOUNTS if kind == "tmpfs" else []),
            sys.executable,
            "-m",
            small_disk.__name__,
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [item["operation"] for item in seen] == operations
    return seen


def test_a_small_file_system_runs_full(exported, checkpoint_folders, tmp_path):
    if not small_disk.can_mount(tmp_path):
        pytest.skip("this machine lets no process mount a file system of its own")
    operations = ["export", "quantize", "split", "merge"]
    sources = checkpoint_folders["colbert"], exported["colpali"]
    for seen in run("tmpfs", tmp_path, operations, *sources):
        message = f"ArtifactError: {tmp_path}/out: no space left on device after"
        assert seen["error"].startswith(message), seen
        assert seen["left"] == [small_disk.FILLER]
        assert seen["then"] == ["out"]


def test_a_file_system_takes_no_larger_file(exported, checkpoint_folders, tmp_path):
    sources = checkpoint_folders["colpali"], exported["colpali"]
    for seen in run("limit", tmp_path, ["quantize", "split", "merge"], *sources):
        assert seen["error"].startswith(f"ArtifactError: {tmp_path}/out: file too large"), seen
        assert seen["left"] == []
        assert seen["then"] == ["out"]


@pytest.mark.parametrize("mode", ["split", "merge"])
def test_too_little_room_is_said_before_a_byte_is_written(exported, tmp_path, monkeypatch, mode):
    usage = files.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    written: list[tuple[int, int]] = []
    for write in (
        lambda: convert(exported["colpali"], tmp_path / "out", Layout(mode), written.append),
        lambda: quantize(exported["colpali"], tmp_path / "out", None, Layout(mode)),
    ):
        with pytest.raises(ArtifactError, match=r"no space left.*bytes are needed, 1,000,000 are"):
            write()
        assert list(tmp_path.iterdir()) == []
    assert written == []
