"""What is quantized, and how: the ``quantization`` section of a variant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from colport.errors import ConfigError
from colport.providers.integers import EXACT, FULL, RANGES

METHODS = ("dynamic", "static", "weight_only")
ACTIVATIONS = ("per_token", "per_tensor")
ROUNDINGS = ("nearest", "gptq")
OPERATORS = ("MatMul", "Gather")
"""Operators that can be quantized: matrix products and embedding tables."""

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Weights that share a scale in ``MatMulNBits``; the sizes that ONNX Runtime takes."""

BITS = {"int8": 8, "int4": 4}
"""Precision to bits of a weight."""

BLOCK_BITS = {"int4_blocks": 4, "int8_blocks": 8}
"""Forms of weights in blocks to their bits, the smallest first."""

DEFAULT_BLOCK_SIZE = 32


@dataclass(frozen=True)
class Calibration:
    """The inputs that statistics are taken from.

    Attributes:
        inputs: Number of queries and of documents.
        seed: Of their choice.
    """

    inputs: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Sensitivity:
    """What the embeddings of the calibration inputs have to keep.

    Attributes:
        mean_cosine: Mean over tokens of the cosine with the base's embedding.
        min_cosine: The smallest of them.
    """

    mean_cosine: float = 0.0
    min_cosine: float = -1.0


@dataclass(frozen=True)
class QuantizeSettings:
    """What is quantized, and how.

    Attributes:
        bits: 8, or 4 for method ``weight_only``.
        method: ``dynamic`` (activations are measured as they come), ``static`` (activations have
            the ranges of the calibration inputs) or ``weight_only`` (blocks of weights,
            ``MatMulNBits``).
        activations: For ``dynamic``: ``per_token`` gives each token a scale of its own,
            ``per_tensor`` one to the whole batch, on whose other inputs embeddings then depend.
        block_size: For ``weight_only``: weights of one column that share a scale.
        range: For ``dynamic`` and ``static``: ``exact`` (by default), whose sums saturate on no
            processor (:mod:`colport.quantize.weights`), or ``full``, for processors with VNNI,
            AVX-VNNI or AMX; ``None`` for ``weight_only``, whose products are always exact.
        operators: Subset of :data:`OPERATORS`.
        exclude: Regular expressions; weights whose name one matches stay in the base precision.
        smoothing: Strength of SmoothQuant between 0 and 1, ``auto`` for the one that errs least
            in each group of products, or ``None`` for none.
        rounding: ``nearest`` or ``gptq``.
        calibration: The inputs of whatever needs them.
        sensitivity: What decides which weights stay in the base precision, or ``None``.
    """

    bits: int = 8
    method: str = "dynamic"
    activations: str | None = None
    block_size: int | None = None
    range: str | None = None
    operators: tuple[str, ...] = OPERATORS
    exclude: tuple[str, ...] = ()
    smoothing: float | Literal["auto"] | None = None
    rounding: str = "nearest"
    calibration: Calibration | None = None
    sensitivity: Sensitivity | None = None

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("rounding", self.rounding, ROUNDINGS)
        self._check_method()
        unknown = sorted(set(self.operators) - set(OPERATORS))
        if unknown or not self.operators:
            raise ConfigError(
                f"quantization.operators: {unknown or 'an empty list'} is not allowed; "
                f"allowed are {', '.join(OPERATORS)}."
            )
        if self.smoothing not in (None, "auto") and not 0 < self.smoothing <= 1:
            raise ConfigError(
                f"quantization.smoothing: found {self.smoothing}; allowed are auto and numbers "
                "above 0, up to 1."
            )
        if self.calibration is not None and not self.is_calibrated:
            raise ConfigError(
                "quantization.calibration: nothing reads it; it goes with method static, "
                "smoothing, rounding gptq or sensitivity."
            )
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"quantization.exclude: {pattern!r} is not a regular expression ({error})."
                ) from error

    def _check_method(self) -> None:
        if self.activations is not None:
            _one_of("activations", self.activations, ACTIVATIONS)
            if self.method != "dynamic":
                raise ConfigError(
                    f"quantization.activations: goes with method dynamic, not {self.method}."
                )
        if self.method != "weight_only" and self.block_size is not None:
            raise ConfigError(
                f"quantization.block_size: goes with method weight_only, not {self.method}."
            )
        if self.range is not None:
            _one_of("range", self.range, RANGES)
            if self.method == "weight_only":
                raise ConfigError(
                    "quantization.range: goes with methods dynamic and static; products of "
                    "weight_only are exact."
                )
        elif self.method != "weight_only":
            object.__setattr__(self, "range", EXACT)
        if self.method == "weight_only":
            if self.block_size is None:
                object.__setattr__(self, "block_size", DEFAULT_BLOCK_SIZE)
            _one_of("block_size", self.block_size, BLOCK_SIZES)
        if self.bits != 8 and self.method != "weight_only":
            raise ConfigError(
                f"quantization.method: found {self.method!r}; int{self.bits} needs weight_only."
            )

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration inputs are needed."""
        return (
            self.method == "static"
            or self.smoothing is not None
            or self.rounding == "gptq"
            or self.sensitivity is not None
        )

    @property
    def is_exact(self) -> bool:
        """Whether sums of integer products are exact on every processor."""
        return self.range != FULL

    @property
    def forms(self) -> tuple[str, ...]:
        """Integer forms of a product, the cheapest first; without a search the first is taken."""
        if self.method == "weight_only":
            return tuple(form for form, bits in BLOCK_BITS.items() if bits >= self.bits)
        if self.method == "static":
            return ("static", "per_token")
        return ("per_tensor", "per_token") if self.activations == "per_tensor" else ("per_token",)

    def excludes(self, name: str) -> bool:
        """Whether a weight stays in the base precision."""
        return any(re.search(pattern, name) for pattern in self.exclude)

    @classmethod
    def from_config(cls, variant: Mapping[str, Any]) -> QuantizeSettings:
        """From a variant of the config: its ``precision`` and ``quantization``."""
        precision = variant["precision"]
        if precision not in BITS:
            raise ConfigError(
                f"precision: found {precision!r}; quantized to is {' or '.join(BITS)}."
            )
        given = dict(variant.get("quantization", {}))
        known = {field.name for field in fields(cls)} - {"bits"}
        if unknown := sorted(set(given) - known):
            raise ConfigError(
                f"quantization.{unknown[0]}: unknown key; allowed are {', '.join(sorted(known))}."
            )
        if "calibration" in given:
            given["calibration"] = Calibration(**given["calibration"])
        if "sensitivity" in given:
            given["sensitivity"] = Sensitivity(**given["sensitivity"])
        for name in ("operators", "exclude"):
            if name in given:
                given[name] = tuple(given[name])
        return cls(bits=BITS[precision], **given)


def _one_of(field: str, found: Any, allowed: Sequence[Any]) -> None:
    if found not in allowed:
        raise ConfigError(
            f"quantization.{field}: found {found!r}; allowed are {', '.join(map(str, allowed))}."
        )
