"""Runs that are killed, that find no room, no write access or no checkpoint."""

import copy
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from colport.base.files import read_json

from .conftest import COMMAND, REDUCED, TINY, Workspace

KILLS = int(os.environ.get("COLPORT_KILLS", "3"))
SEED = int(os.environ.get("COLPORT_KILLS_SEED", "0"))
MODEL, DATASETS = "tiny", ("demo-passages",)
VARIANTS = ("int8",)  # beside them its base
PARITY = [f"results/parity/{MODEL}/{variant}/cpu.json" for variant in VARIANTS]
SCORES = [
    f"results/retrieval/{MODEL}/{place}/{dataset}.json"
    for place in ("pytorch", *(f"{variant}/cpu" for variant in VARIANTS))
    for dataset in DATASETS
]
FOLDERS = [f"results/models/{MODEL}", f"results/embeddings/{MODEL}", f"results/reference/{MODEL}"]


def one_model() -> dict:
    config = copy.deepcopy(REDUCED)
    config["run"] |= {"models": [MODEL], "providers": ["cpu"], "embeddings": []}
    config["models"] = {MODEL: TINY}
    return config


def start(workspace: Workspace) -> subprocess.Popen:
    (workspace.folder / "changed.yaml").write_text(yaml.safe_dump(one_model()))
    command = [*COMMAND, *PARITY, *SCORES, "--rerun-incomplete"]
    return subprocess.Popen(
        [*command, "--configfile", "changed.yaml"],
        cwd=workspace.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return found


def kill(run: subprocess.Popen, what: str, generator: random.Random) -> None:
    if what == "job" and (jobs := descendants(run.pid)):
        os.kill(generator.choice(jobs), signal.SIGKILL)
        assert run.wait(300) != 0
    elif what == "snakemake":
        run.kill()  # its jobs live on, and may write while the next run begins
    else:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def content(file: Path) -> Any:
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, "np") as stored:  # its header names things in any order
        tensors = {key: stored.get_tensor(key).tobytes() for key in sorted(stored.keys())}
        return stored.metadata(), tensors


def contents(root: Path) -> dict[str, Any]:
    return {
        file.relative_to(root).as_posix(): content(file)
        for name in FOLDERS
        for file in sorted((root / name).rglob("*"))
        if file.is_file() and file.name != ".snakemake_timestamp"
    }


def check_equal(killed: Workspace, undisturbed: Workspace) -> None:
    expected = contents(undisturbed.folder)
    found = contents(killed.folder)
    assert set(found) == set(expected)
    assert {name for name in found if found[name] != expected[name]} == set()
    for record in (*PARITY, *SCORES):
        rows = read_json(killed.folder / record)["rows"]
        assert rows == read_json(undisturbed.folder / record)["rows"], record
    unfinished = {".part", ".old"}
    left = [path for path in killed.folder.rglob("results/**/*") if path.suffix in unfinished]
    assert left == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds jobs through /proc")
def test_after_kills_the_results_are_those_of_an_undisturbed_run(workspace, tmp_path_factory):
    undisturbed = Workspace(tmp_path_factory.mktemp("undisturbed"))
    first = undisturbed.snakemake(*PARITY, *SCORES, config=one_model())
    assert first.code == 0, first.output[-3000:]
    generator = random.Random(SEED)
    kills = 0
    while kills < KILLS:
        run = start(workspace)
        deadline = time.monotonic() + generator.uniform(4, 14)
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if run.poll() is not None:  # done in spite of all kills: begin again
            assert run.returncode == 0
            check_equal(workspace, undisturbed)
            shutil.rmtree(workspace.folder / "results")
            continue
        kill(run, ("snakemake", "job", "group")[kills % 3], generator)
        kills += 1
        assert workspace.snakemake("--unlock", config=one_model()).code == 0
    run = workspace.snakemake(*PARITY, *SCORES, "--rerun-incomplete", config=one_model())
    assert run.code == 0, run.output[-3000:]
    check_equal(workspace, undisturbed)
