"""Reads a half-precision base as a float one: its integer variants compute in ``float32``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from colport.folder import graphs
from colport.folder.manifest import Manifest
from colport.tensors.streaming import StreamedTensor, stored_blocks

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def read(base: Path, found: Manifest) -> dict[str, ir.Model]:
    """The graphs of a base as float ones; weights stay where they are until they are needed."""
    models = graphs.read(base, found)
    if found.precision != "fp32":
        for model in models.values():
            widen(model)
    return models


def widen(model: ir.Model) -> None:
    """Make every half-precision value and weight ``float32``, in place; weights when written."""
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen_value(value)
        for node in graph:
            for value in node.outputs:
                _widen_value(value)
            for attribute in list(node.attributes.values()):
                _widen_attribute(node, attribute)


def _widen_value(value: ir.Value) -> None:
    if value.dtype not in _HALF:
        return
    value.type = _FLOAT
    if value.const_value is not None:
        value.const_value = _wide(value.const_value)


def _widen_attribute(node: ir.Node, attribute: ir.Attr) -> None:
    if attribute.name == "to" and attribute.value in _HALF:
        node.attributes[attribute.name] = ir.AttrInt64("to", ir.DataType.FLOAT)
    elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _HALF:
        values = attribute.value.numpy().astype(np.float32)
        node.attributes[attribute.name] = ir.AttrTensor(attribute.name, ir.tensor(values))


def _wide(tensor: ir.TensorProtocol) -> StreamedTensor:
    def blocks() -> Iterator[np.ndarray]:
        for values in stored_blocks(tensor, itemsize=4):
            yield np.asarray(values, np.float32)

    shape = tuple(int(size) for size in tensor.shape)
    return StreamedTensor(blocks, ir.DataType.FLOAT, shape, tensor.name)
