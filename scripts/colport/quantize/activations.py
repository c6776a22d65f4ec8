"""Activations as eight-bit integers: one scale a tensor or a token, measured or known before.

They are ``uint8``: x86's instructions multiply unsigned by signed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from colport.quantize.recipe import Recipe
from colport.quantize.sites import Group
from colport.tensors.editing import Chain

_STEPS = 255
_MIDDLE = 128


@dataclass(frozen=True)
class Integers:
    """An activation in eight bits.

    Attributes:
        values: ``uint8 [..., inputs]``.
        scale: A scalar, or ``[..., 1]`` where each token has its own.
        zero_point: A scalar, or ``None`` for zero.
        is_per_token: Whether each token has its own scale.
    """

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    is_per_token: bool = False


def smoothed(chain: Chain, value: ir.Value, recipe: Recipe, name: str) -> ir.Value:
    """The activation without its shift, divided by the factors."""
    if recipe.shift is not None:
        value = chain.add("Sub", [value, chain.constant(recipe.shift, f"{name}@shift")])
    if recipe.factors is not None:
        inverse = (1 / recipe.factors).astype(np.float32)
        value = chain.add("Mul", [value, chain.constant(inverse, f"{name}@smoothing")])
    return value


def quantized(chain: Chain, value: ir.Value, recipe: Recipe, group: Group) -> Integers:
    """The activation in eight bits."""
    if recipe.form == "static":
        return _static(chain, value, recipe.range, group.name)
    if recipe.form == "per_tensor":
        return Integers(*chain.add("DynamicQuantizeLinear", [value], outputs=3))
    return _per_token(chain, value, group.width, is_positive=recipe.shift is not None)


def _static(chain: Chain, value: ir.Value, bounds: tuple[float, float], name: str) -> Integers:
    """One scale and zero point, chosen before; values beyond the bounds are clipped."""
    low, high = bounds
    step = (high - low) / _STEPS or 1.0
    scale = chain.constant(np.float32(step), f"{name}@activation_scale")
    zero_point = chain.constant(np.uint8(round(-low / step)), f"{name}@activation_zero_point")
    values = chain.add("QuantizeLinear", [value, scale, zero_point])
    return Integers(values, scale, zero_point)


def _per_token(chain: Chain, value: ir.Value, width: int, *, is_positive: bool) -> Integers:
    """One scale a token, from its largest magnitude.

    A token of zeros has scale 0: its products are 0, whatever its integers are.
    """
    last_axis = chain.constant(np.array([-1], np.int64), "last_axis")
    steps = _STEPS if is_positive else _STEPS - _MIDDLE
    magnitudes = value if is_positive else chain.add("Abs", [value])
    largest = chain.add("ReduceMax", [magnitudes, last_axis], {"keepdims": 1})
    scale = chain.add("Mul", [largest, chain.constant(np.float32(1 / steps), f"1/{steps}")])
    inputs, zero_point = [value, scale], None
    if not is_positive:
        middle = ir.tensor(np.array([_MIDDLE], np.uint8))
        extent = chain.add("Shape", [scale])
        inputs.append(chain.add("ConstantOfShape", [extent], {"value": middle}))
        zero_point = chain.constant(np.uint8(_MIDDLE), "middle")
    # Blocks of a whole row: ONNX Runtime's kernel for a scale a row is not vectorised.
    values = chain.add("QuantizeLinear", inputs, {"axis": -1, "block_size": width})
    return Integers(values, scale, zero_point, is_per_token=True)
