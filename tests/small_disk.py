"""Run as a program: writes of exported folders that meet a full disk, then room, then finish.

``python -m tests.small_disk KIND CHECKPOINT EXPORTED FOLDER OPERATION...``. With KIND ``tmpfs``,
FOLDER is made a small file system of its own and filled in mid-write; with ``limit``, the process
may write no larger file. Prints a JSON line for each operation: the error, and what lay in FOLDER
after it and after a rerun.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DISK = 160 * 2**20
FILE_LIMIT = 2**20
FILLER = "filler"
OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
"""The start of a command that may mount file systems which nobody else sees."""


def can_mount(folder: Path) -> bool:
    """Whether this machine lets a process mount a file system of its own."""
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        done = subprocess.run([*OWN_MOUNTS, *mount], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def operation(name: str, source: Path, output: Path) -> Callable[..., object]:
    """The write under test; takes ``progress``."""
    if name == "export":
        from colport.export.folder import export

        return lambda progress: export(source, output, progress=progress)
    if name == "quantize":
        from colport.quantize.folder import quantize

        return lambda progress: quantize(source, output, progress=progress)
    from colport.folder.graphs import convert
    from colport.tensors.external_data import Layout

    return lambda progress: convert(source, output, Layout(name), progress=progress)


def fill(folder: Path) -> None:
    """Take all the room that is left."""
    with (folder / FILLER).open("ab", buffering=0) as stream:
        try:
            while stream.write(bytes(2**20)):
                pass
        except OSError:
            return


def meet(kind: str, write: Callable[..., object], folder: Path) -> dict[str, object]:
    """Write without room, then with it."""
    from colport.base.errors import ColPortError
    from colport.folder import manifest

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, limits[1]))
    error = ""
    try:
        write(lambda done, total: fill(folder) if kind == "tmpfs" else None)
    except ColPortError as caught:
        error = f"{type(caught).__name__}: {caught}"
    left = sorted(path.name for path in folder.iterdir())
    (folder / FILLER).unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write(None)
    manifest.verify(folder / "out")
    then = [path.name for path in folder.iterdir()]
    shutil.rmtree(folder / "out")
    return {"error": error, "left": left, "then": then}


def main(kind: str, checkpoint: str, exported: str, place: str, *names: str) -> None:
    folder = Path(place)
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place]
        subprocess.run(mount, check=True)
    for name in names:
        source = Path(checkpoint if name == "export" else exported)
        write = operation(name, source, folder / "out")
        print(json.dumps({"operation": name, **meet(kind, write, folder)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
