"""Products and tables with integer weights, in the place of float ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from colport.quantize.activations import Integers, quantized, smoothed
from colport.quantize.blocks import blockwise
from colport.quantize.recipe import Recipe
from colport.quantize.settings import QuantizeSettings
from colport.quantize.sites import Group, Site
from colport.quantize.weights import Matrix, column_sums, per_channel, per_row
from colport.tensors.editing import MICROSOFT, Chain, replace

_INT8_ACTIVATIONS = 4
"""``accuracy_level`` of ``MatMulNBits``: blocks of activations become int8, too."""


class IntegerForm:
    """One group with integer weights.

    Args:
        group: What is written.
        recipe: How.
        settings: Range and block size.
        suffix: Ends the names of initializers, where one graph holds several forms.
    """

    def __init__(
        self, group: Group, recipe: Recipe, settings: QuantizeSettings, suffix: str = ""
    ) -> None:
        self._group, self._recipe, self._settings = group, recipe, settings
        self._suffix = suffix
        self._activations: dict[ir.Value, Integers | ir.Value] = {}

    def put(self, site: Site) -> None:
        """Put it in a site's place."""
        chain = Chain(site.graph)
        self.write(chain, site)
        replace(site.graph, site.result, chain.nodes)

    def write(self, chain: Chain, site: Site) -> ir.Value:
        """Append what gives a site's result."""
        chain.suffix = self._suffix
        return self._table(chain, site) if site.is_table else self._product(chain, site)

    def _table(self, chain: Chain, site: Site) -> ir.Value:
        parts = per_row(Matrix(site.weight.const_value), site.weight.name)
        values, scales = (chain.stored(tensor) for tensor in parts)
        rows = chain.add("Gather", [values, site.activation])
        rows = chain.add("Cast", [rows], {"to": ir.DataType.FLOAT})
        return chain.add("Mul", [rows, chain.add("Gather", [scales, site.activation])])

    def _product(self, chain: Chain, site: Site) -> ir.Value:
        matrix = Matrix(site.weight.const_value, self._recipe.factors)
        activation = self._activation(chain, site)
        bias = self._bias(chain, site)
        if isinstance(activation, Integers):
            return self._integer_product(chain, site, matrix, activation, bias)
        return self._blocks_product(chain, site, matrix, activation, bias)

    def _activation(self, chain: Chain, site: Site) -> Integers | ir.Value:
        """The activation as the product reads it; several products share it."""
        if site.activation not in self._activations:
            value = smoothed(chain, site.activation, self._recipe, self._group.name)
            if not self._recipe.block_bits:
                value = quantized(chain, value, self._recipe, self._group)
            self._activations[site.activation] = value
        return self._activations[site.activation]

    def _bias(self, chain: Chain, site: Site) -> ir.Value | None:
        """The site's bias, and what the activation's shift contributes."""
        if self._recipe.shift is None:
            return site.bias
        bias = None if site.bias is None else site.bias.const_value
        matrix, name = Matrix(site.weight.const_value), f"{site.weight.name}@bias"
        return chain.stored(column_sums(matrix, self._recipe.shift, bias, name))

    def _integer_product(
        self,
        chain: Chain,
        site: Site,
        matrix: Matrix,
        activation: Integers,
        bias: ir.Value | None,
    ) -> ir.Value:
        exact, curved = self._settings.is_exact, self._recipe.curved
        tensors = per_channel(matrix, site.weight.name, exact=exact, curved=curved)
        weight, scales = (chain.stored(tensor) for tensor in tensors)
        operands = [activation.values, weight, activation.scale, scales, activation.zero_point]
        if not activation.is_per_token:
            return chain.add("MatMulIntegerToFloat", [*operands, None, bias], domain=MICROSOFT)
        operands[2] = chain.constant(np.float32(1), "one")
        result = chain.add("MatMulIntegerToFloat", operands, domain=MICROSOFT)
        result = chain.add("Mul", [result, activation.scale])
        return result if bias is None else chain.add("Add", [result, bias])

    def _blocks_product(
        self,
        chain: Chain,
        site: Site,
        matrix: Matrix,
        activation: ir.Value,
        bias: ir.Value | None,
    ) -> ir.Value:
        bits, block_size = self._recipe.block_bits, self._settings.block_size
        tensors = blockwise(matrix, site.weight.name, bits, block_size, self._recipe.curved)
        weights = [chain.stored(tensor) for tensor in tensors]
        operands = [activation, *weights, *[None] * (4 - len(weights)), bias]
        inputs, outputs = matrix.shape
        attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block_size}
        attributes["accuracy_level"] = _INT8_ACTIVATIONS
        return chain.add("MatMulNBits", operands, attributes, MICROSOFT)
