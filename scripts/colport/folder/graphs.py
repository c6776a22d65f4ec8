"""What every stage that writes ONNX graphs does with them at the end; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from colport.base.errors import ExportError
from colport.folder.manifest import GraphInfo, Manifest


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


def check(folder: Path, manifest: Manifest) -> None:
    """Check every graph of a folder with ``onnx.checker``.

    Raises:
        ExportError: A graph is not valid ONNX.
    """
    for graph in manifest.graphs.values():
        try:
            onnx.checker.check_model(str(folder / graph.file))
        except onnx.checker.ValidationError as error:
            first = str(error).splitlines()[0]
            raise ExportError(f"{graph.file}: onnx.checker says: {first}") from error


def _interface(value: ir.Value) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
    return {"dtype": value.dtype.name.lower(), "shape": shape}
