"""What is done to a group's activations and weights before they become integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from colport.quantize import blocks
from colport.quantize.calibration import Statistics
from colport.quantize.settings import BLOCK_BITS, QuantizeSettings
from colport.quantize.weights import Curved, Matrix, channel_scales

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Strengths of smoothing that ``smoothing: auto`` tries."""

_STEPS = 255
_SMALLEST = 1e-5
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
        curved: Gives the curvature of what is left, for GPTQ.
    """

    form: str
    shift: np.float32 | None = None
    factors: np.ndarray | None = None
    strength: float | None = None
    range: tuple[float, float] | None = None
    curved: Curved | None = None

    @property
    def block_bits(self) -> int | None:
        """Bits of weights in blocks; ``None`` if activations are integers, too."""
        return BLOCK_BITS.get(self.form)


TABLE = Recipe("rows")
"""Of an embedding table."""


def calibrated(
    form: str, statistics: Statistics, matrices: Sequence[Matrix], settings: QuantizeSettings
) -> Recipe:
    """The recipe that measured activations suggest.

    Args:
        form: See :class:`Recipe`.
        statistics: Of the group.
        matrices: Its weights.
        settings: Smoothing and rounding.
    """
    recipe = Recipe(form)
    if form == "per_token" and -statistics.low.min() < _NEARLY_POSITIVE * statistics.high.max():
        recipe = replace(recipe, shift=statistics.low.min())
    if settings.smoothing == "auto":
        recipe = _best(recipe, statistics, matrices, settings)
    elif settings.smoothing is not None:
        recipe = _smoothed(recipe, statistics, matrices, settings.smoothing)
    if form == "static":
        recipe = replace(recipe, range=_bounds(recipe, statistics))
    if settings.rounding == "gptq":
        shift, factors = recipe.shift or 0, _or_one(recipe.factors)
        curved = partial(statistics.curvature, form, shift, factors)
        recipe = replace(recipe, curved=curved)
    return recipe


def _smoothed(
    recipe: Recipe, statistics: Statistics, matrices: Sequence[Matrix], strength: float
) -> Recipe:
    """With SmoothQuant's factors (Xiao et al. 2023, arXiv:2211.10438, equation 4)."""
    weights = np.max([_largest_of_rows(matrix) for matrix in matrices], axis=0)
    activations = np.maximum(np.abs(statistics.low), np.abs(statistics.high))
    factors = np.maximum(activations, _SMALLEST) ** strength
    factors /= np.maximum(weights, _SMALLEST) ** (1 - strength)
    # Their common size changes nothing; around one they are readable.
    factors /= np.exp(np.log(factors).mean())
    return replace(recipe, factors=factors.astype(np.float32), strength=strength)


def _best(
    recipe: Recipe,
    statistics: Statistics,
    matrices: Sequence[Matrix],
    settings: QuantizeSettings,
) -> Recipe:
    """The strength, or none, whose products with the sampled activations err least."""
    candidates = [recipe]
    candidates += [_smoothed(recipe, statistics, matrices, strength) for strength in STRENGTHS]
    lefts = [_rounded_activations(candidate, statistics) for candidate in candidates]
    errors = np.zeros(len(candidates))
    shift = recipe.shift or np.float32(0)
    for matrix in matrices:
        weights = matrix.whole()
        exact = (statistics.rows - shift) @ weights
        for index, (candidate, left) in enumerate(zip(candidates, lefts, strict=True)):
            scaled = weights * _or_one(candidate.factors)[..., None]
            right = _rounded_weights(candidate, scaled, settings)
            errors[index] += np.square(left @ right - exact).sum()
    return candidates[int(errors.argmin())]


def _rounded_activations(recipe: Recipe, statistics: Statistics) -> np.ndarray:
    """What is left of the sampled activations, ``float32 [rows, inputs]``."""
    values = (statistics.rows - (recipe.shift or np.float32(0))) / _or_one(recipe.factors)
    if recipe.block_bits:
        return values
    if recipe.form == "per_token":
        steps = _STEPS if recipe.shift is not None else _STEPS // 2
        step = np.maximum(np.abs(values).max(axis=1, keepdims=True), _SMALLEST) / steps
    else:
        low, high = _bounds(recipe, statistics)
        step = np.float32(max(high - low, _SMALLEST) / _STEPS)
    return np.rint(values / step) * step


def _rounded_weights(recipe: Recipe, weights: np.ndarray, settings: QuantizeSettings) -> np.ndarray:
    if recipe.block_bits:
        return blocks.rounded(weights, recipe.block_bits, settings.block_size)
    scales = channel_scales([weights], exact=settings.is_exact)
    return np.rint(weights / scales) * scales


def _bounds(recipe: Recipe, statistics: Statistics) -> tuple[float, float]:
    """Range of the smoothed activations; it holds zero, which must stay exact."""
    factors = _or_one(recipe.factors)
    low, high = (statistics.low / factors).min(), (statistics.high / factors).max()
    return min(float(low), 0.0), max(float(high), 0.0)


def _or_one(factors: np.ndarray | None) -> np.ndarray:
    return np.ones(1, np.float32) if factors is None else factors


def _largest_of_rows(matrix: Matrix) -> np.ndarray:
    return np.concatenate([np.abs(values).max(axis=1) for _, values in matrix.blocks()])
