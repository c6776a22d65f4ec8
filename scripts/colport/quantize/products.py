"""Products and tables with integer weights, in the place of float ones.

Activations become eight-bit integers, too, with one scale a tensor or a token, measured or known
before. They are ``uint8``: x86's instructions multiply unsigned by signed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from colport.quantize.recipe import Recipe
from colport.quantize.settings import QuantizeSettings
from colport.quantize.sites import Group, Site
from colport.quantize.weights import Matrix, column_sums, per_row
from colport.tensors.editing import MICROSOFT, Chain, replace

_INT8_ACTIVATIONS = 4
"""``accuracy_level`` of ``MatMulNBits``: blocks of activations become int8, too."""

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


@dataclass(frozen=True, eq=False)
class IntegerForm:
    """One group with integer weights.

    Attributes:
        group: What is written.
        recipe: How.
        settings: Range and block size.
        suffix: Ends the names of initializers, where one graph holds several forms.
    """

    group: Group
    recipe: Recipe
    settings: QuantizeSettings
    suffix: str = ""
    _activations: dict[ir.Value, Integers | ir.Value] = field(default_factory=dict, init=False)

    def put(self, site: Site) -> None:
        """Put it in a site's place."""
        chain = Chain(site.graph)
        self.write(chain, site)
        replace(site.graph, site.result, chain.nodes)

    def write(self, chain: Chain, site: Site) -> ir.Value:
        """Append what gives a site's result."""
        chain.suffix = self.suffix
        return self._table(chain, site) if site.is_table else self._product(chain, site)

    def _table(self, chain: Chain, site: Site) -> ir.Value:
        parts = per_row(Matrix(site.weight.const_value), site.weight.name)
        values, scales = (chain.stored(tensor) for tensor in parts)
        rows = chain.add("Gather", [values, site.activation])
        rows = chain.add("Cast", [rows], {"to": ir.DataType.FLOAT})
        return chain.add("Mul", [rows, chain.add("Gather", [scales, site.activation])])

    def _product(self, chain: Chain, site: Site) -> ir.Value:
        activation, bias = self._activation(chain, site), self._bias(chain, site)
        tensors = self.recipe.integers(site.weight, self.settings)
        weights, bits = [chain.stored(tensor) for tensor in tensors], self.recipe.block_bits
        if bits:
            operands = [activation, *weights, *[None] * (4 - len(weights)), bias]
            inputs, outputs = (int(size) for size in site.weight.shape)
            attributes = {"K": inputs, "N": outputs, "bits": bits}
            attributes["block_size"] = self.settings.block_size
            attributes["accuracy_level"] = _INT8_ACTIVATIONS
            return chain.add("MatMulNBits", operands, attributes, MICROSOFT)
        weight, scales = weights
        operands = [activation.values, weight, activation.scale, scales, activation.zero_point]
        if not activation.is_per_token:
            return chain.add("MatMulIntegerToFloat", [*operands, None, bias], domain=MICROSOFT)
        operands[2] = chain.constant(np.float32(1), "one")
        result = chain.add("MatMulIntegerToFloat", operands, domain=MICROSOFT)
        result = chain.add("Mul", [result, activation.scale])
        return result if bias is None else chain.add("Add", [result, bias])

    def _activation(self, chain: Chain, site: Site) -> Integers | ir.Value:
        """The activation as the product reads it; several products share it."""
        if site.activation not in self._activations:
            self._activations[site.activation] = self._prepared(chain, site.activation)
        return self._activations[site.activation]

    def _prepared(self, chain: Chain, value: ir.Value) -> Integers | ir.Value:
        """An activation without its shift, divided by the factors; in eight bits if it has them."""
        recipe, name = self.recipe, self.group.name
        if recipe.shift is not None:
            value = chain.add("Sub", [value, chain.constant(recipe.shift, f"{name}@shift")])
        if recipe.factors is not None:
            inverse = (1 / recipe.factors).astype(np.float32)
            value = chain.add("Mul", [value, chain.constant(inverse, f"{name}@smoothing")])
        if recipe.block_bits:
            return value
        if recipe.form == "static":
            return _static(chain, value, recipe.range, name)
        if recipe.form == "per_tensor":
            return Integers(*chain.add("DynamicQuantizeLinear", [value], outputs=3))
        return _per_token(chain, value, self.group.width, is_positive=recipe.shift is not None)

    def _bias(self, chain: Chain, site: Site) -> ir.Value | None:
        """The site's bias, and what the activation's shift contributes."""
        if self.recipe.shift is None:
            return site.bias
        bias = None if site.bias is None else site.bias.const_value
        matrix, name = Matrix(site.weight.const_value), f"{site.weight.name}@bias"
        return chain.stored(column_sums(matrix, self.recipe.shift, bias, name))


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
