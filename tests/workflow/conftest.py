"""Run the real Snakefile in a folder of its own, on a reduced default."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMAND = (
    *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
    *("--cores", "2", "--printshellcmds"),
)
"""The start of every command line."""

REDUCED = {
    "run": {
        "models": ["minilm-colbert", "colpali-demo"],
        "variants": ["fp32", "int8"],
        "providers": ["cpu", "tensorrt"],
        "embeddings": ["float16", "int8", "binary", "pooled-3", "pooled-3-binary"],
    },
    "parity": {"inputs": 16, "batch_sizes": [1, 4]},
    "retrieval": {"resamples": 200},
    "scenarios": {
        "run": ["single_stream", "offline", "server"],
        "inputs": 4,
        "rounds": 1,
        "min_seconds": 0,
        "max_seconds": 2,
        "warmup_calls": 2,
        "quiet_wait_s": 0,
        "offline": {"batch_sizes": [4], "min_seconds": 0},
        "server": {
            "confidence": 0.5,
            "min_seconds": 0,
            "max_batch": 2,
            "max_probes": 1,
            "resolution": 0.5,
        },
    },
    "latency": {
        "batch_sizes": [1],
        "rounds": 2,
        "min_samples": 3,
        "min_seconds": 0,
        "max_seconds": 2,
        "warmup_max_calls": 2,
        "quiet_wait_s": 0,  # other tests run beside this one
    },
}


TINY = {
    "family": "colbert",
    "checkpoint": {"path": str(ROOT / "tests/fixtures/pylate-bert")},
    "datasets": ["demo-passages"],
}
"""A model of two layers, where only what is done with one counts."""


@dataclass(frozen=True)
class Run:
    """A finished call of Snakemake: its exit code, its output, and the jobs it ran."""

    code: int
    output: str

    @property
    def jobs(self) -> list[str]:
        return re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", self.output, re.MULTILINE)


class Workspace:
    """A working directory with the project's config and resources linked in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("config", "resources"):
            (folder / name).symlink_to(ROOT / name)

    def snakemake(self, *arguments: str, config: dict[str, Any] | None = None) -> Run:
        command = [*COMMAND, *arguments]
        if config is not None:
            file = self.folder / "changed.yaml"
            file.write_text(yaml.safe_dump(config))
            command += ["--configfile", str(file)]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=900
        )
        return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Workspace, Run]:
    """The reduced default, run once from nothing to the report."""
    workspace = Workspace(tmp_path_factory.mktemp("reduced"))
    return workspace, workspace.snakemake(config=REDUCED)
