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


layer_boundary.register_fake(lambda hidden, *_: torch.empty_like(hidden))


def _operator(name: str, inputs: tuple[str, ...], **attributes: str) -> Callable[..., Any]:
    """The translation of an operator: a node of its inputs and then its attributes, by their types.

    Inputs that end in ``?`` are optional, those that begin with ``#`` integers.
    """
    parameter, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    schema = OpSchema(
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
    operator = values.Op(values.Opset(DOMAIN, 1), name, schema)

    def write(*given: Any) -> Any:
        settings = zip(attributes, given[len(inputs) :], strict=True)
        return operator(*given[: len(inputs)], **dict(settings))

    return write


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.colport.attention.default: _operator(
        ATTENTION, ("query", "key", "value", "bias?", "#lengths?"), scale="FLOAT"
    ),
    torch.ops.colport.layer_boundary.default: _operator(
        LAYER_BOUNDARY, ("hidden",), side="STRING", stack="STRING", layer="INT"
    ),
}
"""What ``torch.onnx`` must know to write them."""

__all__ = ["ATTENTION", "DOMAIN", "LAYER_BOUNDARY", "TRANSLATIONS", "attention", "layer_boundary"]
