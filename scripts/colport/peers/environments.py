"""The environment of a peer: made from its pinned requirement set, anew when that changes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colport.base.errors import RunError
from colport.base.files import sha256_file
from colport.processes.child import Child, ChildError

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
    return {**record, **_listed(str(folder / "bin/python"))}


def own() -> dict[str, Any]:
    """The record of the environment that runs this, for peers that need no other."""
    return {"folder": str(Path(sys.executable).parents[1]), **_listed(sys.executable)}


def _listed(python: str) -> dict[str, Any]:
    """``python`` and ``packages`` of an environment, with the ``status`` of one that is there."""
    with Child([python, "-c", _LIST]) as child:
        try:
            child.wait()
        except ChildError as failed:
            raise RunError(f"{python}: its packages cannot be listed: {failed}.") from None
        said = child.output()
    return {**json.loads(said.splitlines()[-1]), "status": "ok", "reason": ""}


def _install(requirements: Path, folder: Path) -> str:
    """Make the environment; why it cannot exist here, or nothing."""
    # Without the variables of this run: what is installed here is not for the peer.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    python, pip = str(folder / "bin/python"), ("-m", "pip", "--no-input", "install")
    try:
        for program in (
            (sys.executable, "-m", "venv", "--clear", str(folder)),
            (python, *pip, "--require-hashes", "-r", str(requirements)),
        ):
            with Child(program, environment=variables) as child:
                child.wait()
    except ChildError as failed:
        if _UNREACHABLE.search(failed.output):
            raise RunError(
                f"{requirements}: pip cannot reach the package index; peers are built over the "
                "network: run again with one, or remove them from run.peers."
            ) from None
        if found := _NOT_FOR_HERE.search(failed.output):
            return f"{requirements.name} cannot be installed here: {found[1]}"
        raise RunError(f"{requirements}: pip {failed}.") from None
    return ""
