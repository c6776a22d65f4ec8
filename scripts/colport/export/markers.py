"""Operators of our own that a trace carries as single nodes, to be rewritten before writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import values

from colport.families import attention

DOMAIN = "colport"
ATTENTION = "Attention"
"""``attention(query, key, value[, bias, lengths])``, attribute ``scale``; families.attention."""

LAYER_BOUNDARY = "LayerBoundary"
"""Hidden states where a layer of ``stack`` begins or ends, or in its place: attributes ``side`` and
``layer``, its number."""

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


@torch.library.custom_op("colport::layer_boundary", mutates_args=())
def layer_boundary(hidden: torch.Tensor, side: str, stack: str, layer: int) -> torch.Tensor:
    """Hidden states as they are, in a node that can be found again."""
    return hidden.clone()


@layer_boundary.register_fake
def _(hidden: torch.Tensor, side: str, stack: str, layer: int) -> torch.Tensor:
    return torch.empty_like(hidden)


def _schema(name: str, inputs: tuple[str, ...], attributes: Mapping[str, str]) -> OpSchema:
    """A schema that ``torch.onnx`` accepts; inputs that end in ``?`` are optional, those that begin
    with ``#`` integers."""
    parameter, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    return OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[
            parameter(
                name.strip("?#"),
                "I" if name.startswith("#") else "T",
                param_option=option.Optional if name.endswith("?") else option.Single,
            )
            for name in inputs
        ],
        outputs=[parameter("output", "T")],
        type_constraints=[("T", _FLOATS, ""), ("I", ["tensor(int64)"], "")],
        attributes=[
            OpSchema.Attribute(name, getattr(OpSchema.AttrType, kind))
            for name, kind in attributes.items()
        ],
    )


def _operator(name: str, inputs: tuple[str, ...], attributes: Mapping[str, str]) -> values.Op:
    return values.Op(values.Opset(DOMAIN, 1), name, _schema(name, inputs, attributes))


def _attention(query: Any, key: Any, value: Any, bias: Any, lengths: Any, scale: float) -> Any:
    inputs = ("query", "key", "value", "bias?", "#lengths?")
    operator = _operator(ATTENTION, inputs, {"scale": "FLOAT"})
    return operator(query, key, value, bias, lengths, scale=scale)


def _layer_boundary(hidden: Any, side: str, stack: str, layer: int) -> Any:
    attributes = {"side": "STRING", "stack": "STRING", "layer": "INT"}
    operator = _operator(LAYER_BOUNDARY, ("hidden",), attributes)
    return operator(hidden, side=side, stack=stack, layer=layer)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.colport.attention.default: _attention,
    torch.ops.colport.layer_boundary.default: _layer_boundary,
}
"""What ``torch.onnx`` must know to write them."""

__all__ = ["ATTENTION", "DOMAIN", "LAYER_BOUNDARY", "TRANSLATIONS", "attention", "layer_boundary"]
