"""What is quantized, and how: the ``quantization`` section of a variant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from colport.base.declared import IN_CODE, Allowed, Count, Natural, check
from colport.base.errors import ConfigError
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
Operator = Annotated[str, Allowed(enum=OPERATORS)]
Strength = Annotated[float, Allowed(exclusiveMinimum=0, maximum=1)]


@dataclass(frozen=True)
class Calibration:
    """The inputs that statistics are taken from."""

    inputs: Count = 16
    """Number of queries and of documents, from the second half of the model's calibration dataset;
    parity compares the first ones."""

    seed: Natural = 0
    """Seed of their random choice."""


@dataclass(frozen=True)
class Sensitivity:
    """What the embeddings of the calibration inputs have to keep."""

    mean_cosine: Annotated[float, Allowed(minimum=0, exclusiveMaximum=1)] = 0
    """Mean over tokens of the cosine with the base's embedding."""

    min_cosine: Annotated[float, Allowed(minimum=-1, exclusiveMaximum=1)] = -1
    """The smallest of them."""


@dataclass(frozen=True)
class QuantizeSettings:
    """What is quantized, and how."""

    bits: Annotated[int, IN_CODE] = 8
    """8, or 4 for method ``weight_only``."""

    method: Annotated[str, Allowed(enum=METHODS)] = "dynamic"
    """``dynamic``: activations become integers as they come. ``static``: with ranges measured
    before. ``weight_only``: weights in blocks (``MatMulNBits``), the only one for ``int4``: small,
    and fast where reading weights takes the time (single queries)."""

    activations: Annotated[str | None, Allowed(enum=ACTIVATIONS)] = None
    """For ``dynamic``: ``per_token`` (by default) or ``per_tensor``, one scale for a whole batch,
    on whose other inputs embeddings then depend."""

    block_size: Annotated[int | None, Allowed(enum=BLOCK_SIZES)] = None
    """For ``weight_only``: weights of one column that share a scale; by default 32."""

    range: Annotated[str | None, Allowed(enum=RANGES)] = None
    """For ``dynamic`` and ``static``: ``exact`` (by default), whose sums are exact on every
    processor, or ``full``, see below."""

    operators: Annotated[tuple[Operator, ...], Allowed(minItems=1, uniqueItems=True)] = OPERATORS
    """Which operators get integer weights; ``Gather`` is the word embedding table, always eight
    bits a weight, a scale a row."""

    exclude: tuple[Annotated[str, Allowed(minLength=1)], ...] = ()
    r"""Regular expressions searched in weight names; these stay in the base's precision:
    ``["embedding_proj_layer", "mlp\\.fc2"]``. A family may have some that do in
    any case; ``colport.json`` lists them, too."""

    smoothing: Strength | Literal["auto"] | None = None
    """Moves large activations into weights (SmoothQuant): ``auto`` finds each product's best
    strength; or a number. By default none."""

    rounding: Annotated[str, Allowed(enum=ROUNDINGS)] = "nearest"
    """With ``gptq`` weights make up for each other's rounding error."""

    sensitivity: Sensitivity | None = None
    """What the calibration inputs' token embeddings have to keep against the base. Where the
    cheapest forms of all products together miss it, each kind of product, the same in all layers,
    is tried by itself, in finer forms only where it loses more than a hundredth of what the target
    allows; those that lose most for what a finer form costs get it, or stay float, until the target
    is reached. ``colport.json`` records all of it."""

    calibration: Calibration | None = None
    """The inputs of whatever needs them."""

    def __post_init__(self) -> None:
        check(self, "quantization.")
        for fault in self._faults():
            raise ConfigError(f"quantization.{fault}")
        if self.method == "weight_only":
            object.__setattr__(self, "block_size", self.block_size or DEFAULT_BLOCK_SIZE)
        else:
            object.__setattr__(self, "range", self.range or EXACT)

    def _faults(self) -> Iterator[str]:
        """Settings that are not allowed, or contradict others, each with what is wrong."""
        for key, method in (("activations", "dynamic"), ("block_size", "weight_only")):
            if getattr(self, key) is not None and self.method != method:
                yield f"{key}: goes with method {method}, not {self.method}."
        if self.method == "weight_only" and self.range is not None:
            words = "goes with methods dynamic and static; products of weight_only are exact"
            yield f"range: {words}."
        if self.bits != 8 and self.method != "weight_only":
            yield f"method: found {self.method!r}; int{self.bits} needs weight_only."
        if self.smoothing not in (None, "auto") and not 0 < self.smoothing <= 1:
            allowed = "allowed are auto and numbers above 0, up to 1"
            yield f"smoothing: found {self.smoothing}; {allowed}."
        if self.calibration is not None and not self.is_calibrated:
            needed = "method static, smoothing, rounding gptq or sensitivity"
            yield f"calibration: nothing reads it; it goes with {needed}."
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"exclude: {pattern!r} is not a regular expression ({error})."

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration inputs are needed."""
        measured = self.method == "static" or self.rounding == "gptq"
        return measured or (self.smoothing, self.sensitivity) != (None, None)

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
        return cls(bits=BITS[precision], **given)
