"""Files between stages: atomic writes, JSON records and content hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colport.errors import ArtifactError, UnsupportedError

SCHEMA_VERSION = 1
"""Version of every JSON file under ``results/``; a reader refuses another one."""

UNSUPPORTED = "unsupported.json"
"""Marks a folder whose content a known limit prevents; holds the reason."""

_CHUNK = 1 << 20


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file path beside ``path``; it takes its name only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, all or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` with ``schema_version``; NaN and infinities become ``null``."""
    record = {"schema_version": SCHEMA_VERSION, **payload}
    text = json.dumps(_finite(record), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a record of :func:`write_json`.

    Raises:
        ArtifactError: The file is missing, is not JSON, or has another ``schema_version``.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: is not valid JSON ({error}).") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}; this ColPort reads {SCHEMA_VERSION}."
        )
    return record


def write_unsupported(folder: Path | str, reason: str) -> None:
    """Write a folder that holds nothing but the reason why there is nothing."""
    with atomic_folder(folder) as temporary:
        write_json(temporary / UNSUPPORTED, {"reason": reason})


def check_supported(folder: Path | str) -> None:
    """Pass on the known limit that an earlier stage recorded.

    Raises:
        UnsupportedError: The folder was written by :func:`write_unsupported`.
    """
    marker = Path(folder) / UNSUPPORTED
    if marker.is_file():
        raise UnsupportedError(read_json(marker)["reason"])


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(paths: Iterable[Path | str]) -> str:
    """One short hash over the names and bytes of files, independent of their order."""
    digest = hashlib.sha256()
    for path in sorted(Path(path) for path in paths):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
