"""The environment of a peer: made from its pinned requirement set, anew when that changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colport.base.errors import RunError
from colport.base.files import sha256_file

_MARK = "colport-requirements.sha256"
_UNREACHABLE = re.compile(
    r"Retrying \(Retry|NewConnectionError|Temporary failure in name resolution|ReadTimeoutError"
)
_NOT_FOR_HERE = re.compile(
    r"^ERROR: (No matching distribution found for .*|.*is not a supported wheel.*"
    r"|.*requires a different Python.*)$",
    re.MULTILINE,
)
_LIST = (
    "import importlib.metadata as m, json, platform; print(json.dumps({'python': "
    "platform.python_version(), 'packages': {d.name: d.version for d in m.distributions()}}))"
)


def build(requirements: Path, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """An environment with the packages of a requirement set.

    One that was made from the same set is kept.

    Args:
        requirements: Pinned, with hashes.
        folder: Where it lies; replaced if it was made from another set.
        report: Called with the progress.

    Returns:
        A record: ``folder``, ``requirements`` (SHA-256), ``python``, ``packages`` (name to
        version), ``status`` and ``reason``: ``unsupported`` where a package does not exist for
        this Python or machine.

    Raises:
        RunError: The package index cannot be reached, or pip failed for another reason.
    """
    digest = sha256_file(requirements)
    record = {"folder": str(folder.absolute()), "requirements": digest}
    mark = folder / _MARK
    if not (mark.is_file() and mark.read_text() == digest):
        report(f"building {folder} from {requirements}")
        if reason := _install(requirements, folder):
            return {**record, "packages": {}, "status": "unsupported", "reason": reason}
        mark.write_text(digest)
    listed = subprocess.run(
        [folder / "bin/python", "-c", _LIST], capture_output=True, text=True, check=True
    )
    return {**record, **json.loads(listed.stdout), "status": "ok", "reason": ""}


def own() -> dict[str, Any]:
    """The record of the environment that runs this, for peers that need no other."""
    listed = subprocess.run([sys.executable, "-c", _LIST], capture_output=True, text=True)
    folder = str(Path(sys.executable).parents[1])
    return {"folder": folder, **json.loads(listed.stdout), "status": "ok", "reason": ""}


def _install(requirements: Path, folder: Path) -> str:
    """Make the environment; why it cannot exist here, or nothing."""
    # Without the variables of this run: what is installed here is not for the peer.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    python = folder / "bin/python"
    for program in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "--no-input", "install", "--require-hashes", "-r", requirements],
    ):
        done = subprocess.run(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
        )
        if not done.returncode:
            continue
        if _UNREACHABLE.search(done.stdout):
            raise RunError(
                f"{requirements}: pip cannot reach the package index; peers are built over the "
                "network: run again with one, or remove them from run.peers."
            )
        if found := _NOT_FOR_HERE.search(done.stdout):
            return f"{requirements.name} cannot be installed here: {found[1]}"
        raise RunError(f"{requirements}: pip failed: {' '.join(done.stdout.splitlines()[-3:])}")
    return ""
