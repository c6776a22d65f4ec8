"""Change the layout of an exported folder's weights: split, merge or shard, every tensor equal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from colport.base.files import atomic_folder
from colport.folder import graphs, manifest
from colport.folder.manifest import Manifest
from colport.tensors import external_data
from colport.tensors.external_data import Layout, Progress


def convert(
    source: Path, output: Path, layout: Layout, progress: Progress | None = None
) -> Manifest:
    """Write ``source`` again with another layout.

    Args:
        source: An exported folder.
        output: Folder to write; may be ``source`` itself, which is replaced at the end.
        layout: Where the weights go.
        progress: Called after each block of weights, with the bytes written and those of all.

    Raises:
        ArtifactError: ``source`` is not a whole exported folder, or the disk is full.
        ExportError: The layout cannot hold the weights.
    """
    known = manifest.read(source)
    models = {name: external_data.read(source / graph.file) for name, graph in known.graphs.items()}
    with atomic_folder(output) as folder:
        copy_companions(source, folder, known)
        files = external_data.write(models, folder, layout, progress)
        result = replace(known, external_data={"layout": layout.mode, "files": files})
        graphs.check(folder, result)
        return result.write(folder)


def copy_companions(base: Path, folder: Path, source: Manifest) -> None:
    """Copy what is neither graph nor weights: tokenizer and processor files."""
    skip = {graph.file for graph in source.graphs.values()} | set(source.external_data["files"])
    for name in source.files:
        if name not in skip:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, target)
