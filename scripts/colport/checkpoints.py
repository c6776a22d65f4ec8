"""Checkpoints: a Hub id, a local folder or a folder inside a package, resolved to one folder.

An optional ``overlay`` folder adds or replaces files (a projection, a prompt configuration)
without touching the checkpoint itself; ``sha256`` pins single files.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.artifacts import atomic_folder, sha256_file
from colport.errors import CheckpointError
from colport.weights import read_header

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.metadata")
"""Files fetched from a Hub repository: configuration, tokenizer and safetensors weights."""


def resolve(declaration: Mapping[str, Any], workspace: Path | str) -> Path:
    """Folder that holds the declared checkpoint.

    Args:
        declaration: Exactly one of ``hub`` (with ``revision``, a commit, tag or branch), ``path``
            (a folder) and ``package`` (an importable package; ``folder`` inside it); optional
            ``sha256`` (file to digest) and ``overlay`` (a folder).
        workspace: Where the folder of an overlaid checkpoint is assembled from links.

    Raises:
        CheckpointError: The folder, package, revision or a file is not there, or a digest differs.
    """
    return _finished(_base_folder(declaration), declaration, Path(workspace))


def record(declaration: Mapping[str, Any], family: str, workspace: Path | str) -> dict[str, Any]:
    """Resolve a checkpoint and say what it is: ``folder``, ``family``, ``source``, ``weights``.

    ``weights`` holds the SHA-256 of every safetensors file, so that another checkpoint under the
    same name reruns what depends on it.

    Raises:
        CheckpointError: See :func:`resolve`; or a safetensors header does not fit its file.
    """
    base = _base_folder(declaration)
    folder = _finished(base, declaration, Path(workspace))
    files = sorted(folder.rglob("*.safetensors"))
    for file in files:
        read_header(file)
    return {
        "folder": str(folder),
        "family": family,
        "source": describe(declaration, base),
        "weights": {str(file.relative_to(folder)): sha256_file(file) for file in files},
    }


def describe(declaration: Mapping[str, Any], base: Path) -> str:
    """One line that names the source of a checkpoint; for the Hub with the commit it came from."""
    if "hub" in declaration:
        return f"{declaration['hub']}@{base.name}"
    if "package" in declaration:
        return f"package {declaration['package']}, folder {declaration.get('folder', '.')}"
    return str(declaration["path"])


def read_config(folder: Path | str, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    file = Path(folder) / name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: is not valid JSON ({error}).") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds {type(config).__name__}, expected a JSON object.")
    return config


def _finished(base: Path, declaration: Mapping[str, Any], workspace: Path) -> Path:
    """The base folder with its overlay, its digests checked."""
    overlay = declaration.get("overlay")
    folder = _lay_over(base, Path(overlay), workspace) if overlay else base
    _check_digests(folder, declaration.get("sha256", {}))
    return folder


def _base_folder(declaration: Mapping[str, Any]) -> Path:
    if "hub" in declaration:
        return _from_hub(declaration["hub"], declaration["revision"])
    if "package" in declaration:
        return _from_package(declaration["package"], declaration.get("folder", "."))
    folder = Path(declaration["path"]).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint path {str(folder)!r}: there is no such folder.")
    return folder.resolve()


def _from_package(package: str, folder: str) -> Path:
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise CheckpointError(f"checkpoint package {package!r}: is not installed.")
    root = Path(locations[0]).resolve()
    inside = (root / folder).resolve()
    if not inside.is_relative_to(root) or not inside.is_dir():
        raise CheckpointError(f"checkpoint package {package!r}: has no folder {folder!r}.")
    return inside


def _from_hub(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {repository}@{revision}: the Hub cannot be reached and the "
            "offline cache does not hold this revision."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {repository}@{revision}: {reason}") from error


def _lay_over(base: Path, overlay: Path, workspace: Path) -> Path:
    if not overlay.is_dir():
        raise CheckpointError(f"checkpoint overlay {str(overlay)!r}: there is no such folder.")
    with atomic_folder(workspace) as folder:
        for layer in (base, overlay):
            for file in sorted(path for path in layer.rglob("*") if path.is_file()):
                link = folder / file.relative_to(layer)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
    return workspace.resolve()


def _check_digests(folder: Path, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing; its sha256 is declared in the config.")
        if (found := sha256_file(file)) != expected:
            raise CheckpointError(f"{file}: sha256 is {found}, expected {expected}.")
