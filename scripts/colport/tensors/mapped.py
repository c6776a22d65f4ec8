"""Mapped weight files of a process that is to stay small, however large they are."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

_INTERVAL_S = 0.05
_SMAPS, _STATM = Path("/proc/self/smaps"), Path("/proc/self/statm")


@contextmanager
def few_resident(folder: Path, megabytes: float) -> Iterator[None]:
    """Keep pages of a folder's mapped files from adding to the process's resident memory.

    Whenever the process holds more pages of files than it did and ``megabytes`` beside, those of
    the folder leave it. They stay in the system's page cache while there is room, from where they
    come back without a read. Looked after are files that are mapped by then, and parts of them
    that nobody has written to. Elsewhere than on Linux nothing is done.

    Args:
        folder: Its files are weights, mapped to be read.
        megabytes: MB (10**6 bytes).
    """
    if sys.platform != "linux":
        yield
        return
    ranges, most = _unwritten(folder.resolve()), _resident_files() + megabytes * 1e6
    done = Event()
    release = ctypes.CDLL(None).madvise
    release.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            if _resident_files() > most:
                for start, size in ranges:
                    release(start, size, mmap.MADV_DONTNEED)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _unwritten(folder: Path) -> list[tuple[int, int]]:
    """Where files of the folder are mapped, and how many bytes, but for copies on write."""
    ranges: list[tuple[int, int]] = []
    for line in os.fsdecode(_SMAPS.read_bytes()).splitlines():
        name, *fields = line.split(maxsplit=5)
        if not name.endswith(":"):
            is_own = len(fields) == 5 and Path(fields[4]).is_relative_to(folder)
            place = [int(end, 16) for end in name.split("-")]
        elif is_own and name == "Anonymous:" and fields[0] == "0":
            ranges.append((place[0], place[1] - place[0]))
    return ranges


def _resident_files() -> int:
    """Bytes of files that are resident in this process."""
    return int(_STATM.read_text().split()[2]) * mmap.PAGESIZE
