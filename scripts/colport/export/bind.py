"""Weights for a traced graph: each initializer becomes a tensor that is read when written.

Every tensor of a checkpoint is read by a graph, or its family says why it is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from colport.base.errors import CheckpointError, ExportError
from colport.families.base import Skeleton
from colport.families.reference.skeletons import COMPUTED, reason
from colport.tensors import editing, weights
from colport.tensors.streaming import Blocks, StreamedTensor, row_ranges

TRANSPOSED = "^T"
"""Suffix of an initializer that holds a parameter flattened to two axes and transposed."""

_COMPUTED = "colport.computed"  # a value's steps from the parameter that it is named after
_STEPS: Mapping[str, Callable[..., np.ndarray]] = {
    "Cast": lambda values: values,  # steps are taken in fp32, the result is cast when it is written
    "Add": np.add,
    "Mul": np.multiply,
}


def detach(model: ir.Model) -> None:
    """Take the values from all parameters, so that no optimisation can fold or read them.

    They are on the meta device; what is not is a constant of the model's code.
    """
    for value in model.graph.initializers.values():
        if getattr(value.const_value, "raw", None) is None or value.const_value.raw.is_meta:
            value.const_value = None


def store_transposed(model: ir.Model) -> None:
    """Store weights as the products read them: nothing is left to transpose at load.

    ``Transpose(weight)`` becomes a transposed weight, ``Gemm`` with ``transB`` a plain one, and a
    convolution over whole patches the matrix product that it is.
    """
    writes = {"Transpose": _transpose, "Gemm": _gemm, "Conv": _patch_convolution}
    for node in list(model.graph):
        if node.op_type in writes:
            writes[node.op_type](model.graph, node)
    editing.remove_unused_initializers(model.graph)


def _transpose(graph: ir.Graph, node: ir.Node) -> None:
    weight = node.inputs[0]
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else [1, 0]
    if weight is None or not weight.is_initializer() or list(perm) != [1, 0]:
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], _transposed(graph, weight))
    graph.remove(node, safe=True)


def _gemm(graph: ir.Graph, node: ir.Node) -> None:
    weight = node.inputs[1]
    if weight.is_initializer() and node.attributes.get_int("transB", 0):
        node.replace_input_with(1, _transposed(graph, weight))
        node.attributes.pop("transB")


def _patch_convolution(graph: ir.Graph, node: ir.Node) -> None:
    """``Conv`` over ``[patches, values]`` that was reshaped to just one kernel's extent."""
    reshape, weight = node.inputs[0].producer(), node.inputs[1]
    if reshape is None or reshape.op_type != "Reshape":
        return
    flat = reshape.inputs[0]
    values = math.prod(weight.shape[1:])
    one_step = list(node.attributes["strides"].as_ints()) == list(weight.shape[2:])
    whole = flat.shape is not None and len(flat.shape) == 2 and flat.shape[1] == values
    if not (whole and one_step and list(reshape.outputs[0].shape[1:]) == list(weight.shape[1:])):
        return
    nodes = [ir.node("MatMul", [flat, _transposed(graph, weight)])]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    # torch computes zeros where a convolution has no bias: only a stored one counts.
    if bias is not None and bias.is_initializer():
        nodes.append(ir.node("Add", [nodes[0].outputs[0], bias]))
    extent = np.array([-1, weight.shape[0], *[1] * (len(weight.shape) - 2)], np.int64)
    shape = editing.stored(graph, ir.tensor(extent, name=f"{node.outputs[0].name}.shape"))
    nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], shape]))
    editing.replace(graph, node.outputs[0], nodes)


def _transposed(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    """The initializer that holds a weight flattened to two axes and transposed."""
    shape = math.prod(weight.shape[1:]), weight.shape[0]
    return editing.declared(graph, f"{weight.name}{TRANSPOSED}", shape, weight.dtype)


def compute_vectors(model: ir.Model) -> None:
    """Store what a graph computes from a weight vector alone, as the ``1 + weight`` of a norm.

    Nothing is read yet: the initializer knows the steps to take when it is written.
    """
    graph = model.graph
    for node in list(graph):
        weight = next((value for value in node.inputs if _is_vector(value)), None)
        others = [value for value in node.inputs if value is not weight]
        if weight is None or node.op_type not in _STEPS or None in map(editing.scalar, others):
            continue
        constants = [editing.scalar(value) for value in others]
        old, name = node.outputs[0], "^".join([weight.name, node.op_type, *map(repr, constants)])
        new = editing.declared(graph, name, weight.shape, old.dtype)
        new.meta[_COMPUTED] = (*weight.meta.get(_COMPUTED, ()), (node.op_type, *constants))
        ir.convenience.replace_all_uses_with(old, new)
        graph.remove(node, safe=True)
    editing.remove_unused_initializers(graph)


def _is_vector(value: ir.Value | None) -> bool:
    """Whether the value is a weight with one axis, not read yet."""
    return (
        value is not None
        and value.is_initializer()
        and value.const_value is None
        and len(value.shape) == 1
    )


def attach(model: ir.Model, skeleton: Skeleton) -> None:
    """Give every initializer its value: a constant, or a tensor of the checkpoint.

    Constants that folding made belong to this graph alone and are named after it.

    Raises:
        ExportError: An initializer has no value.
    """
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is None:
            value.const_value = _tensor(value, skeleton, model.graph.name)
        else:
            value.name = f"{model.graph.name}.{name}"


def _tensor(value: ir.Value, skeleton: Skeleton, graph: str) -> StreamedTensor:
    """The parameter that an initializer is named after, produced when it is written."""
    parameter, _, suffix = value.name.partition("^")
    transposed = f"^{suffix}" == TRANSPOSED
    if parameter in skeleton.constants:
        read: Blocks = partial(_constant_blocks, skeleton.constants[parameter])
    elif parameter in skeleton.tensors:
        read = partial(_checkpoint_blocks, skeleton.tensors[parameter], transposed)
    else:
        raise ExportError(f"{graph} graph: {value.name!r} has no value.")
    steps = value.meta.get(_COMPUTED, ())
    blocks = partial(_stored_blocks, read, value.dtype.numpy(), parameter, transposed, steps)
    return StreamedTensor(blocks, value.dtype, tuple(map(int, value.shape)), value.name)


def _constant_blocks(constant: torch.Tensor) -> Iterator[np.ndarray]:
    values = constant.detach().cpu()
    # NumPy knows no bfloat16; it is cast back when it is stored.
    yield (values.float() if values.is_floating_point() else values).numpy()


def _checkpoint_blocks(entry: weights.StoredTensor, whole: bool) -> Iterator[np.ndarray]:
    """The tensor as it is stored, block by block, or at once where it must be transposed."""
    if whole or not entry.shape:
        parts: Iterable[np.ndarray] = [entry.read()]
    else:
        rows = row_ranges(entry.shape[0], entry.nbytes // max(entry.shape[0], 1))
        parts = (entry.read_rows(*places) for places in rows)
    for values in parts:
        yield weights.finite(entry, values)


def _stored_blocks(
    read: Blocks, dtype: np.dtype, parameter: str, transposed: bool, steps: Sequence[Any] = ()
) -> Iterator[np.ndarray]:
    for values in read():
        values = values.astype(np.float32) if steps else values
        for operator, *constants in steps:
            values = _STEPS[operator](values, *constants)
        with np.errstate(over="ignore"):
            cast = values.astype(dtype, copy=False)
        if cast.dtype == np.float16 and not np.isfinite(cast).all():
            raise CheckpointError(f"weight {parameter!r} has values beyond fp16's range of 65504.")
        yield np.ascontiguousarray(cast.reshape(len(cast), -1).T if transposed else cast)


def unread(
    models: Iterable[ir.Model], skeleton: Skeleton, checkpoint: Path
) -> list[dict[str, str]]:
    """The checkpoint's tensors that no graph reads: ``file``, ``tensor`` and ``reason``.

    Args:
        models: Graphs whose weights are attached.
        skeleton: What they were traced from.
        checkpoint: The checkpoint, which files are named from.

    Raises:
        ExportError: A tensor is not read, and nobody says why.
    """
    used = {name for model in models for name in _weights(model)} & skeleton.tensors.keys()
    read = {part for name in used for part in skeleton.tensors[name].parts}
    replaced = {part.replaces for part in read}
    names = {part: name for name, tensor in skeleton.tensors.items() for part in tensor.parts}
    rows, lost = [], []
    for entry in sorted(_stored(names) - read, key=lambda entry: (entry.file, entry.key)):
        if entry in replaced:
            why = "replaced by the adapter's own"
        else:
            why = reason({**skeleton.unread, **COMPUTED}, entry.key, names.get(entry, ""))
        if not why:
            lost.append(entry)
        file = entry.file.relative_to(checkpoint) if entry.file.is_relative_to(checkpoint) else ""
        rows.append({"file": str(file or entry.file.name), "tensor": entry.key, "reason": why})
    if lost:
        raise ExportError(
            f"{lost[0].file}: {len(lost)} tensors are read by no graph, first {lost[0].key!r}; "
            "the model's family gives no reason to leave them out."
        )
    return rows


def _weights(model: ir.Model) -> Iterator[str]:
    """Names of the parameters and buffers whose values a graph holds."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, StreamedTensor):
            yield value.name.partition("^")[0]


def _stored(used: Iterable[weights.TensorEntry]) -> set[weights.TensorEntry]:
    """All tensors of the files that gave one, and of the shards beside them."""
    files = {entry.file for entry in used}
    found = {entry for file in files for entry in weights.read_header(file).values()}
    for folder in {file.parent for file in files}:
        if (folder / weights.INDEX).is_file():
            found |= set(weights.TensorIndex(folder).values())
    return found
