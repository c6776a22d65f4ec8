"""What is done to a group's activations and weights before they become integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from colport.quantize import blocks
from colport.quantize.calibration import Statistics
from colport.quantize.rounding import Curvature
from colport.quantize.settings import BLOCK_BITS, QuantizeSettings
from colport.quantize.sites import Group
from colport.quantize.weights import Matrix, channel_scales, per_channel

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Strengths of smoothing that ``smoothing: auto`` tries."""

_STEPS = 255
_SMALLEST = 1e-5
_COLUMNS = 512  # of each weight that errors are computed of; every one has its own scale
_NEARLY_POSITIVE = 1 / 8
"""An activation whose lowest value is this near to zero, as part of its highest, came out of an
activation function: GELU ends at -0.17, SiLU at -0.28."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How the products of one activation are quantized.

    Attributes:
        form: ``static``, ``per_token`` or ``per_tensor``, for how activations become integers;
            ``int8_blocks`` or ``int4_blocks`` for weights alone; ``rows`` of a table.
        shift: A number that is taken from the activation, which is then never below zero; what
            it contributes to the product is added to the result.
        factors: ``float32 [inputs]``; the activation is divided by them, the weights multiplied.
        strength: Of the smoothing that the factors come from.
        range: Lowest and highest value of what is left, for ``static``.
        error: Of the products, squared, as part of their own square: the mean over sampled tokens.
        rounded: Weight name to its integers and scales by their names, where GPTQ made them.
    """

    form: str
    shift: np.float32 | None = None
    factors: np.ndarray | None = None
    strength: float | None = None
    range: tuple[float, float] | None = None
    error: float = 1.0
    rounded: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    @property
    def block_bits(self) -> int | None:
        """Bits of weights in blocks; ``None`` if activations are integers, too."""
        return BLOCK_BITS.get(self.form)

    def integers(
        self, weight: ir.Value, settings: QuantizeSettings, curvature: Curvature | None = None
    ) -> Sequence[ir.TensorProtocol]:
        """A product's weight as integers, their scales, and zero points if they have any.

        Args:
            weight: The stored matrix.
            settings: Range and block size.
            curvature: For GPTQ, where it has not been done.
        """
        if weight.name in self.rounded:
            parts = self.rounded[weight.name].items()
            return [ir.tensor(values, name=name) for name, values in parts]
        matrix = Matrix(weight.const_value, self.factors)
        if self.block_bits:
            size = settings.block_size
            return blocks.blockwise(matrix, weight.name, self.block_bits, size, curvature)
        return per_channel(matrix, weight.name, exact=settings.is_exact, curvature=curvature)


TABLE = Recipe("rows")
"""Of an embedding table."""


def ladder(
    group: Group, statistics: Statistics, settings: QuantizeSettings, folder: Path
) -> list[Recipe]:
    """Recipes for the forms of a group that may be chosen, the cheapest first.

    Args:
        group: Products of one activation.
        statistics: Of the group.
        settings: Forms, smoothing and rounding.
        folder: A new folder for what GPTQ makes, once: a search reads it, and what is written.
    """
    weights = {site.weight.name: site.weight for site in group.sites}.values()
    products = Products(statistics, [Matrix(weight.const_value) for weight in weights], settings)
    recipes: list[Recipe] = []
    for form in settings.forms if settings.sensitivity else settings.forms[:1]:
        recipe = products.recipe(form, recipes[-1] if recipes else None)
        if settings.rounding == "gptq" and not recipe.rounded:
            curvature = statistics.curvature(recipe.shift or 0, _or_one(recipe.factors))
            rounded = {}
            for number, weight in enumerate(weights):
                made = recipe.integers(weight, settings, curvature)
                rounded[weight.name] = _in_files(made, folder / f"{form}.{number}")
            recipe = replace(recipe, rounded=rounded)
        recipes.append(recipe)
    return recipes


def _in_files(tensors: Sequence[ir.TensorProtocol], folder: Path) -> dict[str, np.ndarray]:
    """Values by name, mapped from files of a new folder: those of all weights are too large."""
    folder.mkdir(parents=True)
    found: dict[str, np.ndarray] = {}
    for tensor in tensors:
        file = folder / f"{len(found)}.npy"
        np.save(file, tensor.numpy())
        found[tensor.name] = np.load(file, mmap_mode="r", allow_pickle=False)
    return found


@dataclass(frozen=True, eq=False)
class Products:
    """A group's products, of which samples are computed in any form.

    Attributes:
        statistics: Of what they read.
        matrices: Their weights.
        settings: Smoothing, range and block size, and whether there is a search.
    """

    statistics: Statistics
    matrices: Sequence[Matrix]
    settings: QuantizeSettings

    def recipe(self, form: str, cheaper: Recipe | None = None) -> Recipe:
        """The recipe that measured activations suggest.

        Args:
            form: See :class:`Recipe`.
            cheaper: Of a cheaper form, whose smoothing a form without a shift shares, and whose
                integers, if they are of the same bits.
        """
        recipe, low, high = Recipe(form), self.statistics.low, self.statistics.high
        if form == "per_token" and -low.min() < _NEARLY_POSITIVE * high.max():
            recipe = replace(recipe, shift=low.min())
        if cheaper is not None and recipe.shift is None:
            rounded = cheaper.rounded if cheaper.block_bits == recipe.block_bits else {}
            recipe = replace(cheaper, form=form, range=None, rounded=rounded)
        elif self.settings.smoothing == "auto":
            candidates = [recipe, *(self._smoothed(recipe, strength) for strength in STRENGTHS)]
            errors, _ = self._squares(candidates)
            recipe = candidates[int(errors.sum(axis=1).argmin())]
        elif self.settings.smoothing is not None:
            recipe = self._smoothed(recipe, self.settings.smoothing)
        if form == "static":
            recipe = replace(recipe, range=self._bounds(recipe))
        if self.settings.sensitivity is not None:
            errors, sizes = self._squares([recipe])
            recipe = replace(recipe, error=float(np.mean(errors / np.maximum(sizes, _SMALLEST))))
        return recipe

    def _smoothed(self, recipe: Recipe, strength: float) -> Recipe:
        """With SmoothQuant's factors (Xiao et al. 2023, arXiv:2211.10438, equation 4)."""
        weights = np.max([_largest_of_rows(matrix) for matrix in self.matrices], axis=0)
        activations = np.maximum(np.abs(self.statistics.low), np.abs(self.statistics.high))
        factors = np.maximum(activations, _SMALLEST) ** strength
        factors /= np.maximum(weights, _SMALLEST) ** (1 - strength)
        # Their common size changes nothing; around one they are readable.
        factors /= np.exp(np.log(factors).mean())
        return replace(recipe, factors=factors.astype(np.float32), strength=strength)

    def _squares(self, candidates: Sequence[Recipe]) -> tuple[np.ndarray, np.ndarray]:
        """Squared lengths of sampled products' errors, and of the products.

        Candidates have one shift. Weights are rounded to the nearest.

        Returns:
            ``[candidates, rows]`` and ``[rows]``.
        """
        rows = self.statistics.rows - (candidates[0].shift or np.float32(0))
        lefts = [self._rounded_activations(candidate) for candidate in candidates]
        errors, sizes = np.zeros((len(lefts), len(rows))), np.zeros(len(rows))
        for matrix in self.matrices:
            weights = matrix.whole()
            weights = weights[:, :: -(-weights.shape[1] // _COLUMNS)]
            exact = rows @ weights
            sizes += np.square(exact).sum(axis=1)
            for squares, candidate, left in zip(errors, candidates, lefts, strict=True):
                scaled = weights * _or_one(candidate.factors)[..., None]
                right = self._rounded_weights(candidate, scaled)
                squares += np.square(left @ right - exact).sum(axis=1)
        return errors, sizes

    def _rounded_activations(self, recipe: Recipe) -> np.ndarray:
        """What is left of the sampled activations, ``float32 [rows, inputs]``."""
        rows = self.statistics.rows - (recipe.shift or np.float32(0))
        values = rows / _or_one(recipe.factors)
        if recipe.block_bits:
            return values
        if recipe.form == "per_token":
            steps = _STEPS if recipe.shift is not None else _STEPS // 2
            step = np.maximum(np.abs(values).max(axis=1, keepdims=True), _SMALLEST) / steps
        else:
            low, high = self._bounds(recipe)
            step = np.float32(max(high - low, _SMALLEST) / _STEPS)
        return np.rint(values / step) * step

    def _rounded_weights(self, recipe: Recipe, weights: np.ndarray) -> np.ndarray:
        if recipe.block_bits:
            return blocks.rounded(weights, recipe.block_bits, self.settings.block_size)
        scales = channel_scales([weights], exact=self.settings.is_exact)
        return np.rint(weights / scales) * scales

    def _bounds(self, recipe: Recipe) -> tuple[float, float]:
        """Range of the smoothed activations; it holds zero, which must stay exact."""
        factors = _or_one(recipe.factors)
        low, high = self.statistics.low / factors, self.statistics.high / factors
        return min(float(low.min()), 0.0), max(float(high.max()), 0.0)


def _or_one(factors: np.ndarray | None) -> np.ndarray:
    return np.ones(1, np.float32) if factors is None else factors


def _largest_of_rows(matrix: Matrix) -> np.ndarray:
    return np.concatenate([np.abs(values).max(axis=1) for _, values in matrix.blocks()])
