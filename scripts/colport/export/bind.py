"""Weights for a traced graph: each initializer becomes a tensor that is read when written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from colport.errors import CheckpointError, ExportError
from colport.families.base import Skeleton
from colport.weights import TensorEntry

TRANSPOSED = "^T"
"""Suffix of an initializer that holds a parameter transposed."""


def detach(model: ir.Model) -> None:
    """Take the values from all parameters, so that no optimisation can fold or read them."""
    for value in model.graph.initializers.values():
        value.const_value = None


def transpose_weights(model: ir.Model) -> None:
    """Replace ``Transpose(parameter)`` by a parameter that is stored transposed."""
    for node in list(model.graph):
        if node.op_type != "Transpose" or not node.inputs or len(node.outputs) != 1:
            continue
        weight = node.inputs[0]
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        if weight is None or not weight.is_initializer() or list(perm or [1, 0]) != [1, 0]:
            continue
        name = f"{weight.name}{TRANSPOSED}"
        stored = model.graph.initializers.get(name)
        if stored is None:
            shape = ir.Shape([weight.shape[1], weight.shape[0]])
            stored = ir.Value(name=name, shape=shape, type=ir.TensorType(weight.dtype))
            model.graph.initializers[name] = stored
        ir.convenience.replace_all_uses_with(node.outputs[0], stored)
        model.graph.remove(node, safe=True)
        if not weight.uses():
            model.graph.initializers.pop(weight.name)


def attach(model: ir.Model, skeleton: Skeleton) -> None:
    """Give every initializer its value: a constant, or a tensor of the checkpoint.

    Constants that folding made belong to this graph alone and are named after it.

    Raises:
        ExportError: An initializer has no value.
    """
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            _rename(model, value, f"{model.graph.name}.{name}")
            continue
        parameter = name.removesuffix(TRANSPOSED)
        if parameter in skeleton.constants:
            read: Callable[[], np.ndarray] = skeleton.constants[parameter].detach().cpu().numpy
        elif parameter in skeleton.sources:
            read = partial(_finite, skeleton.sources[parameter])
        else:
            raise ExportError(f"{model.graph.name} graph: {name!r} has no value.")
        value.const_value = ir.LazyTensor(
            partial(_load, read, value.dtype, name, name != parameter),
            dtype=value.dtype,
            shape=value.shape,
            name=name,
        )


def _rename(model: ir.Model, value: ir.Value, name: str) -> None:
    model.graph.initializers.pop(value.name)
    value.name = value.const_value.name = name
    model.graph.initializers.add(value)


def _load(
    read: Callable[[], np.ndarray], dtype: ir.DataType, name: str, transposed: bool
) -> ir.Tensor:
    values = read()
    if transposed:
        values = values.T
    with np.errstate(over="ignore"):
        cast = values.astype(dtype.numpy(), copy=False)
    if cast.dtype == np.float16 and not np.isfinite(cast).all():
        raise CheckpointError(f"weight {name!r} has values beyond fp16's range of 65504.")
    return ir.Tensor(np.ascontiguousarray(cast), dtype=dtype, name=name)


def _finite(entry: TensorEntry) -> np.ndarray:
    values = entry.read()
    if values.dtype.kind not in "iub" and not np.isfinite(values).all():
        raise CheckpointError(f"{entry.file}: tensor {entry.key!r} holds NaN or infinite values.")
    return values
