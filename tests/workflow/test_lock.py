"""Two runs on one working directory: the second says who holds it, also after a kill -9."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from .conftest import ROOT

CONFIG = {  # the checkpoint's package never finishes its import
    "run": {"models": ["slow"], "variants": ["fp32"], "providers": ["cpu"]},
    "models": {
        "slow": {
            "family": "colpali",
            "checkpoint": {"package": "slow_package.inside"},
            "datasets": ["demo-pages-qa"],
        }
    },
}
TARGET = "results/checkpoints/slow.json"


@pytest.fixture
def running(workspace, monkeypatch):
    """A run whose job does not end, in a process group of its own."""
    package = workspace.folder / "slow_package"
    package.mkdir()
    started = workspace.folder / "started"
    (package / "__init__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(workspace.folder))
    config = workspace.folder / "slow.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--cores", "1", "--configfile", str(config), "--", TARGET]
    with (workspace.folder / "first.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=workspace.folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not started.exists():
            assert process.poll() is None, (workspace.folder / "first.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_second_run_says_who_holds_the_directory(workspace, running):
    holder = f"This directory is held by process {running.pid} on {socket.gethostname()}"
    second = workspace.snakemake(TARGET, config=CONFIG)
    assert second.code != 0
    assert holder in second.output
    assert "--configfile" in second.output.split(holder)[1].splitlines()[0]
    assert "LockException" in second.output.split(holder)[0]  # what explains it comes last

    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    third = workspace.snakemake(TARGET, config=CONFIG)
    assert third.code != 0
    assert "This directory is locked by a run that was killed, process " in third.output
    assert "Then `snakemake --unlock`" in third.output

    assert workspace.snakemake("--unlock", TARGET, config=CONFIG).code == 0
    other = workspace.snakemake("results/datasets/demo-passages.json")
    assert other.code == 0, other.output[-3000:]
    assert "This directory" not in other.output
    assert not list(workspace.folder.glob(".snakemake/colport-runs/*"))
