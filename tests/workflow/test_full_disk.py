"""A whole run on a file system that runs full, then has room: one clear error, then it finishes."""

import shlex
import subprocess

import pytest
import yaml

from tests.small_disk import OWN_MOUNTS, can_mount

from .conftest import COMMAND, ROOT

CONFIG = {"retrieval": {"resamples": 200}}
TARGET = "results/retrieval/colpali-demo/pytorch/demo-pages-qa.json"
MESSAGE = "reference/colpali-demo/demo-pages-qa/0/documents.safetensors: no space left on device"
SCRIPT = """
mount -t tmpfs -o size=6m tmpfs {folder} && cd {folder}
ln -s {root}/config config && ln -s {root}/resources resources && cp {config} changed.yaml
run() {{ {snakemake} --configfile changed.yaml --rerun-incomplete {target}; echo "exit code $?"; }}
run
find results -name '*.part' -o -name '*.old'
echo "now with room"
mount -o remount,size=1g {folder}
run
"""


def test_a_disk_that_runs_full(tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("this machine lets no process mount a file system of its own")
    folder, config = tmp_path / "small", tmp_path / "changed.yaml"
    folder.mkdir()
    config.write_text(yaml.safe_dump(CONFIG))
    script = SCRIPT.format(
        folder=shlex.quote(str(folder)),
        root=shlex.quote(str(ROOT)),
        config=shlex.quote(str(config)),
        snakemake=shlex.join(COMMAND),
        target=TARGET,
    )
    done = subprocess.run(
        [*OWN_MOUNTS, "bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    full, _, finished = done.stdout.partition("now with room")
    assert MESSAGE in full, full[-3000:]
    assert "Traceback" not in full
    assert "exit code 1\n" in full
    assert full.rpartition("exit code 1\n")[2].strip() == ""  # nothing half-written is left
    assert "exit code 0" in finished, finished[-3000:]
