"""What is done with the graphs of an exported folder once they are there; needs no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from colport.base.errors import ExportError
from colport.base.files import atomic_folder
from colport.base.redaction import plain
from colport.folder import manifest
from colport.folder.manifest import GraphInfo, Manifest
from colport.tensors import external_data
from colport.tensors.external_data import Layout, Progress


def describe(name: str, model: ir.Model) -> GraphInfo:
    """The manifest's description of a graph."""
    weights = model.graph.initializers.values()
    return GraphInfo(
        file=f"{name}.onnx",
        inputs={value.name: _interface(value) for value in model.graph.inputs},
        outputs={value.name: _interface(value) for value in model.graph.outputs},
        nodes=sum(1 for _ in model.graph.all_nodes()),
        parameters=sum(value.const_value.size for value in weights),
    )


def read(folder: Path, found: Manifest) -> dict[str, ir.Model]:
    """The graphs of a folder by name; weights stay on the disk until they are needed.

    Raises:
        ArtifactError: See :func:`colport.tensors.external_data.read`.
    """
    return {name: external_data.read(folder / graph.file) for name, graph in found.graphs.items()}


def write(
    models: Mapping[str, ir.Model],
    folder: Path,
    manifest: Manifest,
    layout: Layout,
    progress: Progress | None = None,
) -> Manifest:
    """Write graphs, their weights and ``colport.json``; ``onnx.checker`` reads every graph.

    Args:
        models: Graphs by name.
        folder: Where all other files are already.
        manifest: What the folder is, but for its graphs and weights.
        layout: Where the weights go.
        progress: Called after each block of weights, with the bytes written and those of all.

    Raises:
        ArtifactError: The disk is full.
        ExportError: The layout cannot hold the weights, or a graph is not valid ONNX.
    """
    files = external_data.write(models, folder, layout, progress)
    found = {name: describe(name, model) for name, model in models.items()}
    for graph in found.values():
        check(folder / graph.file)
    place = {"layout": layout.layout, "files": files}
    return replace(manifest, graphs=found, external_data=place).write(folder)


def check(file: Path) -> None:
    """Have ``onnx.checker`` read a graph.

    Raises:
        ExportError: It is not valid ONNX.
    """
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{file.name}: onnx.checker says: {plain(error)}") from error


def convert(base: Path, output: Path, layout: Layout, progress: Progress | None = None) -> Manifest:
    """Write ``base`` again with another layout of its weights, every tensor equal.

    Args:
        base: An exported folder.
        output: Folder to write; may be ``base`` itself, which is replaced at the end.
        layout: Where the weights go.
        progress: Called after each block of weights, with the bytes written and those of all.

    Raises:
        ArtifactError: ``base`` is not a whole exported folder, or the disk is full.
        ExportError: The layout cannot hold the weights.
    """
    known = manifest.read(base)
    models = read(base, known)
    with atomic_folder(output) as folder:
        copy_companions(base, folder, known)
        return write(models, folder, known, layout, progress)


def copy_companions(base: Path, folder: Path, found: Manifest) -> None:
    """Copy what is neither graph nor weights: tokenizer and processor files."""
    skip = {graph.file for graph in found.graphs.values()} | set(found.external_data["files"])
    for name in found.files:
        if name not in skip:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, target)


def _interface(value: ir.Value) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
    return {"dtype": value.dtype.name.lower(), "shape": shape}
