"""Exported folders as other libraries load them: the same weights under their names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from colport.base.files import atomic_folder, write_text
from colport.folder import manifest
from colport.folder.layouts import transformers_js
from colport.folder.manifest import Manifest
from colport.tensors.external_data import Progress

README = "README.md"

LAYOUTS: Mapping[str, Callable[[Path, Manifest, Path, Progress | None], str]] = {
    "transformers.js": transformers_js.write
}
"""What writes the graphs and settings of an exported folder, described by its manifest, to another
one, and returns that one's README; refuses with :class:`UnsupportedError` what it cannot hold."""


def publish(base: Path, output: Path, layout: str, progress: Progress | None = None) -> None:
    """Write an exported folder as another library loads it, every weight as it is.

    Args:
        base: An exported folder.
        output: Folder to write; it appears complete or not at all.
        layout: One of :data:`LAYOUTS`.
        progress: Called after each block of weights, with the bytes written and those of all.

    Raises:
        ArtifactError: ``base`` is not a whole exported folder, or the disk is full.
        UnsupportedError: The layout cannot hold the folder's model.
    """
    found = manifest.read(base)
    with atomic_folder(output) as folder:
        write_text(folder / README, LAYOUTS[layout](base, found, folder, progress))
        shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")


def files(folder: Path) -> list[str]:
    """Names of all files of a published folder but its README."""
    found = (file for file in folder.rglob("*") if file.is_file() and file.name != README)
    return sorted(file.relative_to(folder).as_posix() for file in found)
