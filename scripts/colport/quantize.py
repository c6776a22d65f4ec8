"""Dynamic int8: weights in eight bits per output channel, activations quantized as they come.

The graphs are rewritten and the weights quantized one at a time while they are written, from the
external data of a float folder: memory is that of the largest tensor.

A matrix product becomes ``DynamicQuantizeLinear`` and ``MatMulInteger`` (ONNX standard operators,
which ONNX Runtime fuses), with ``QUInt8`` activations and symmetric ``QInt8`` weights, the types
that CPUs with VNNI multiply directly. An embedding table becomes ``int8`` with one scale a row.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from colport import external_data, manifest
from colport.artifacts import atomic_folder
from colport.errors import ConfigError, UnsupportedError
from colport.export.folder import check, describe_graph
from colport.external_data import Layout, Progress
from colport.manifest import Manifest
from colport.streaming import StreamedTensor, row_ranges, stored_rows

OPERATORS = ("MatMul", "Gather")
"""Operators that can be quantized: matrix products and embedding tables."""

_QUANTIZED = "@int8"
_SCALE = "@scale"
_LARGEST = 127.0  # symmetric: -128 is not used, as VNNI's 16-bit sums would saturate sooner


@dataclass(frozen=True)
class QuantizeSettings:
    """What is quantized.

    Attributes:
        operators: Subset of :data:`OPERATORS`.
        exclude: Regular expressions; weights whose name one matches stay in the base precision.
    """

    operators: tuple[str, ...] = OPERATORS
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.operators) - set(OPERATORS))
        if unknown or not self.operators:
            raise ConfigError(
                f"quantization.operators: {unknown or 'an empty list'} is not allowed; "
                f"allowed are {', '.join(OPERATORS)}."
            )

        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"quantization.exclude: {pattern!r} is not a regular expression ({error})."
                ) from error

    def excludes(self, name: str) -> bool:
        """Whether a weight stays in the base precision."""
        return any(re.search(pattern, name) for pattern in self.exclude)

    @classmethod
    def from_config(cls, settings: Mapping[str, Any]) -> QuantizeSettings:
        """From the ``quantization`` section of a variant."""
        return cls(tuple(settings.get("operators", OPERATORS)), tuple(settings.get("exclude", ())))


def quantize(
    base: Path,
    output: Path,
    settings: QuantizeSettings | None = None,
    layout: Layout | None = None,
    report: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the int8 variant of an exported fp32 folder.

    Args:
        base: An exported folder of precision ``fp32``.
        output: Folder to write; it appears complete or not at all.
        settings: What is quantized.
        layout: Where the weights go.
        report: Called with a line for each step.
        progress: Called after each block of weights, with the bytes written and those of all.

    Raises:
        UnsupportedError: The base is not fp32, or nothing in it can be quantized.
    """
    settings = settings or QuantizeSettings()
    layout = layout or Layout()
    source = manifest.read(base)
    if source.precision != "fp32":
        raise UnsupportedError(
            f"{base}: int8 needs a base of precision fp32, not {source.precision}."
        )
    models = {name: external_data.read(base / graph.file) for name, graph in source.graphs.items()}
    counts = {name: quantize_graph(model, settings) for name, model in models.items()}
    report("quantized " + ", ".join(f"{counts[name]} operators of {name}" for name in counts))
    if empty := [name for name, count in counts.items() if count == 0]:
        raise UnsupportedError(
            f"{base}: the {empty[0]} graph has no {' or '.join(settings.operators)} on a weight."
        )
    with atomic_folder(output) as folder:
        copy_companions(base, folder, source)
        files = external_data.write(models, folder, layout, progress)
        result = replace(
            source,
            precision="int8",
            graphs={name: describe_graph(name, model) for name, model in models.items()},
            external_data={"layout": layout.mode, "files": files},
            quantization={"settings": asdict(settings), "operators": counts},
        )
        check(folder, result)
        return result.write(folder)


def copy_companions(base: Path, folder: Path, source: Manifest) -> None:
    """Copy what is neither graph nor weights: tokenizer and processor files."""
    skip = {graph.file for graph in source.graphs.values()} | set(source.external_data["files"])
    for name in source.files:
        if name not in skip:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, target)


def quantize_graph(model: ir.Model, settings: QuantizeSettings) -> int:
    """Rewrite one graph in place; returns how many operators were quantized."""
    graph = model.graph
    _split_gemm(graph)
    activations: dict[ir.Value, list[ir.Value]] = {}
    count = 0
    for node in list(graph):
        if node.op_type not in settings.operators:
            continue
        weight = node.inputs[1] if node.op_type == "MatMul" else node.inputs[0]
        if not _is_table(weight) or settings.excludes(weight.name):
            continue
        if node.op_type == "MatMul":
            _quantize_matmul(graph, node, weight, activations)
        elif node.attributes.get_int("axis", 0) == 0:
            _quantize_gather(graph, node, weight)
        else:
            continue
        count += 1
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)
    return count


def _is_table(value: ir.Value | None) -> bool:
    """Whether the value is a stored fp32 matrix."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    tensor = value.const_value
    return tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2


def _split_gemm(graph: ir.Graph) -> None:
    """Write ``Gemm`` with a stored weight as ``MatMul`` and ``Add``, its plain meaning."""
    for node in list(graph):
        if node.op_type != "Gemm" or not _is_table(node.inputs[1]):
            continue
        plain = (
            node.attributes.get_float("alpha", 1.0) == 1.0
            and node.attributes.get_float("beta", 1.0) == 1.0
            and not node.attributes.get_int("transA", 0)
            and not node.attributes.get_int("transB", 0)
        )
        if not plain:
            continue
        product = ir.node("MatMul", node.inputs[:2])
        nodes = [product]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            nodes.append(ir.node("Add", [product.outputs[0], node.inputs[2]]))
        _replace(graph, node, nodes)


def _quantize_matmul(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, activations: dict[ir.Value, list[ir.Value]]
) -> None:
    inputs = node.inputs[0]
    nodes: list[ir.Node] = []
    if inputs not in activations:  # several products may read one activation
        dynamic = ir.node("DynamicQuantizeLinear", [inputs], num_outputs=3)
        nodes.append(dynamic)
        activations[inputs] = list(dynamic.outputs)
    values, scale, zero_point = activations[inputs]
    quantized, weight_scale = _stored(graph, weight, axis=0)
    product = ir.node("MatMulInteger", [values, quantized, zero_point])
    as_float = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    both = ir.node("Mul", [scale, weight_scale])
    result = ir.node("Mul", [as_float.outputs[0], both.outputs[0]])
    _replace(graph, node, [*nodes, product, as_float, both, result])


def _quantize_gather(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    indices = node.inputs[1]
    quantized, scale = _stored(graph, weight, axis=1)
    rows = ir.node("Gather", [quantized, indices])
    as_float = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Gather", [scale, indices])
    result = ir.node("Mul", [as_float.outputs[0], scales.outputs[0]])
    _replace(graph, node, [rows, as_float, scales, result])


def _replace(graph: ir.Graph, node: ir.Node, nodes: Iterable[ir.Node]) -> None:
    nodes = list(nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _stored(graph: ir.Graph, weight: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """The weight's int8 values and fp32 scales, reduced over ``axis``, as initializers."""
    name, tensor = weight.name, weight.const_value
    shape = tuple(int(size) for size in tensor.shape)
    # MatMulInteger wants scales of rank 1 to broadcast over the last axis; Gather keeps rows.
    scale_shape = (shape[1],) if axis == 0 else (shape[0], 1)
    quantized = StreamedTensor(
        partial(_int8_blocks, tensor, axis), ir.DataType.INT8, shape, f"{name}{_QUANTIZED}"
    )
    scale = StreamedTensor(
        partial(_scale_blocks, tensor, axis, scale_shape),
        ir.DataType.FLOAT,
        scale_shape,
        f"{name}{_SCALE}",
    )
    return _initializer(graph, quantized), _initializer(graph, scale)


def _initializer(graph: ir.Graph, tensor: StreamedTensor) -> ir.Value:
    known = graph.initializers.get(tensor.name)
    if known is not None:
        return known
    value = ir.Value(
        name=tensor.name,
        shape=tensor.shape,
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.initializers.add(value)
    return value


def channel_scales(values: np.ndarray, axis: int) -> np.ndarray:
    """Symmetric scale of each channel: the largest magnitude over ``axis`` maps to 127.

    Args:
        values: ``float32`` matrix.
        axis: Axis that shares a scale; it is kept with size 1.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True)
    return np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)


def _float_blocks(tensor: ir.TensorProtocol, axis: int) -> Iterator[np.ndarray]:
    """The stored values: block by block where scales are per row, else whole."""
    rows, columns = (int(size) for size in tensor.shape)
    ranges = row_ranges(rows, 4 * columns) if axis == 1 else [(0, rows)]
    for start, stop in ranges:
        yield stored_rows(tensor, start, stop)


def _int8_blocks(tensor: ir.TensorProtocol, axis: int) -> Iterator[np.ndarray]:
    for values in _float_blocks(tensor, axis):
        scaled = values / channel_scales(values, axis)
        np.rint(scaled, out=scaled)
        yield np.clip(scaled, -_LARGEST, _LARGEST, out=scaled).astype(np.int8)


def _scale_blocks(
    tensor: ir.TensorProtocol, axis: int, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    for values in _float_blocks(tensor, axis):
        yield channel_scales(values, axis).reshape(-1, *shape[1:])
