"""Files between stages: atomic writes, JSON records and content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from colport.base.errors import ArtifactError, PeerError, UnsupportedError, read_of
from colport.base.foreign import parse_json

SCHEMA_VERSION = 1
"""Version of every JSON file under ``results/``; a reader refuses another one."""

UNSUPPORTED = "unsupported.json"
"""Marks a folder whose content a known limit prevents; holds the reason."""

_NEW, _OLD = ".part", ".old"
_TEMPORARY = re.compile(rf"^\.(.+)\.[0-9a-f]{{8}}{re.escape(_NEW)}$")
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; it takes its name only if the block succeeds.

    Raises:
        ArtifactError: The disk is full, or the place cannot be written to.
    """
    path = _target(path)
    with _temporary(path, partial(Path.touch, exist_ok=False)) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` only if the block succeeds.

    An interruption leaves either the old folder or the new one complete: under ``path``, or, if
    the process is killed between two renames, beside it, from where the next writer restores it.

    Raises:
        ArtifactError: The disk is full, or the place cannot be written to.
    """
    path = _target(path)
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path}: is a file, expected a folder or nothing.")
    with _temporary(path, Path.mkdir) as temporary:
        yield temporary
        _swap(temporary, path)


@contextmanager
def scratch_folder(beside: Path | str) -> Iterator[Path]:
    """Yield a temporary folder on the disk of ``beside``; it is removed in any case.

    Raises:
        ArtifactError: The disk is full, or the place cannot be written to.
    """
    with _temporary(_target(beside), Path.mkdir) as temporary:
        yield temporary


def remove_on_stop() -> None:
    """End this process as after Ctrl-C when it is told to stop or its terminal is closed, so that
    temporary files are removed."""
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def require_space(folder: Path | str, nbytes: int) -> None:
    """Refuse a write that cannot fit before any of it is written.

    Args:
        folder: An existing folder on the disk to write to.
        nbytes: Bytes to be written.

    Raises:
        ArtifactError: The disk has less room.
    """
    if nbytes > (free := shutil.disk_usage(folder).free):
        raise ArtifactError(
            f"{Path(folder).parent}: no space left on device; {nbytes:,} bytes are needed, "
            f"{free:,} are free."
        )


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A file or folder beside ``path`` that is gone, or has another name, afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        temporary, lock = _make_locked(path, make)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        yield temporary
    except Exception as error:
        number = _system_error(error)
        if number not in _FULL:
            raise
        written, free = bytes_below(temporary), shutil.disk_usage(path.parent).free
        raise ArtifactError(
            f"{final_place(path)}: {os.strerror(number).lower()} after {written:,} bytes, {free:,} "
            "are free; nothing is left of the attempt."
        ) from error
    finally:
        _remove(temporary)
        os.close(lock)


def final_place(path: Path) -> Path:
    """Where a temporary file or folder, or a file in one, will lie."""
    return Path(*(_TEMPORARY.sub(r"\1", part) for part in path.parts))


def _target(path: Path | str) -> Path:
    """What to write: behind a link, so that the link stays."""
    with read_of(ArtifactError, path, "is a link that leads to itself", RuntimeError):
        return Path(path).resolve()


def _system_error(error: Exception) -> int | None:
    """The system's number of an error; libraries in Rust, safetensors' among them, only tell it."""
    if isinstance(error, OSError):
        return error.errno
    told = _RUST_ERROR.search(str(error))
    return int(told[1]) if told else None


def _make_locked(path: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new temporary name and a lock that says, while this process lives, that it is in use."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_NEW}")
        make(temporary)
        lock = os.open(temporary, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nothing there is called abandoned
            _lock(lock, blocking=True)
        if temporary.exists():
            return temporary, lock
        os.close(lock)  # another process cleared it before it was locked


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``, whose content moves aside first."""
    old = new.with_suffix(_OLD)
    try:
        if path.is_dir():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        if path.exists():
            _remove(old)


def _clear_abandoned(path: Path) -> None:
    """Remove what killed writers of ``path`` left; restore the content that they had moved."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}({_NEW}|{_OLD})")
    left = [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]
    for item in sorted(left, reverse=True):  # a writer's new content comes before the old
        if item.suffix == _NEW:
            _remove_unless_locked(item)
        elif not item.with_suffix(_NEW).exists():
            if path.exists():
                _remove(item)
            else:
                item.rename(path)


def _remove_unless_locked(path: Path) -> None:
    with suppress(OSError):  # in use, or on a file system that cannot tell
        lock = os.open(path, os.O_RDONLY)
        try:
            _lock(lock, blocking=False)
            _remove(path)
        finally:
            os.close(lock)


def _lock(handle: int, *, blocking: bool) -> None:
    import fcntl  # here, so that an encoder can read its folder where there is none

    fcntl.flock(handle, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def bytes_below(path: Path | str) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = (Path(path), *Path(path).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


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
    with read_of(ArtifactError, path, "is not valid JSON ({})"):
        record = parse_json(path.read_text(encoding="utf-8"))
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version!r}; this ColPort reads {SCHEMA_VERSION}."
        )
    return record


def write_unsupported(folder: Path | str, reason: str, status: str = "unsupported") -> None:
    """Write a folder that holds nothing but the reason why there is nothing."""
    with atomic_folder(folder) as temporary:
        write_json(temporary / UNSUPPORTED, {"reason": reason, "status": status})


def check_supported(folder: Path | str) -> None:
    """Pass on the known limit that an earlier stage recorded.

    Raises:
        UnsupportedError: The folder was written by :func:`write_unsupported`; a
            :class:`~colport.base.errors.PeerError` for one of a peer that failed.
    """
    marker = Path(folder) / UNSUPPORTED
    if marker.is_file():
        record = read_json(marker)
        failed = record.get("status") == PeerError.status
        reason = str(record.get("reason", "no reason is recorded"))
        raise (PeerError if failed else UnsupportedError)(reason)


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def visible_files(folder: Path | str, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Files below a folder, through links, in a fixed order.

    What programs put beside content does not count: hidden files and folders (``.git``, ``.cache``,
    ``.ipynb_checkpoints``) and ``__pycache__``. Links that lead back are not followed.
    """
    if (real := os.path.realpath(folder)) in above:
        return
    above |= {real, *map(str, Path(real).parents)}
    for entry in sorted(Path(folder).iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from visible_files(entry, above)
        elif entry.is_file():
            yield entry


def file_state(path: Path | str) -> tuple[str, int, int, int]:
    """Where a file lies, links resolved, its size, its time and the time of its last change.

    The former time can be set (``cp -p``, archives), so that another file of the same size may
    have it; the latter is the file system's own.

    Raises:
        OSError: There is no such file.
    """
    found = Path(path).stat()
    return os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def state_hash(files: Iterable[Path | str]) -> str:
    """One short hash over the names and states of files, see :func:`file_state`; of those that are
    there: who reads them says that one is not."""
    states = []
    for file in files:
        with suppress(FileNotFoundError):
            states.append((str(file), file_state(file)))
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def content_hash(paths: Iterable[Path | str]) -> str:
    """One short hash over the names and bytes of files, independent of their order."""
    digest = hashlib.sha256()
    for path in sorted(Path(path) for path in paths):
        digest.update(os.fsencode(path.name))
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
