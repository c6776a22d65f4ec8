"""Change the layout of an exported folder's weights: split, merge or shard, every tensor equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from colport import external_data, graphs, manifest
from colport.artifacts import atomic_folder
from colport.external_data import Layout, Progress
from colport.manifest import Manifest
from colport.quantize.folder import copy_companions


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
