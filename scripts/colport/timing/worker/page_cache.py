"""Drop files from the page cache: a load from the disk, without the rights of root."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from colport.base.errors import UnsupportedError


def drop(folders: Iterable[Path | str]) -> None:
    """Ask the kernel to forget the cached pages of all files below some folders.

    Pages that a process has mapped, or that are not yet on the disk, stay (``posix_fadvise``,
    ``POSIX_FADV_DONTNEED``); so they are written first.

    Raises:
        UnsupportedError: The system has no such call.
        OSError: A file cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UnsupportedError("latency.cold_load: this system cannot drop files from its cache.")
    for folder in folders:
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
