"""Figures as a reader wants them: few digits, a unit, a real minus sign, an en dash for none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import pandas as pd

from colport import tables
from colport.base.columns import COLUMNS
from colport.base.redaction import redacted

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: ``None``, NaN, ``<NA>`` or an infinity."""
    return tables.is_missing(value) or (isinstance(value, float) and math.isinf(value))


def is_true(value: Any) -> bool:
    """Whether a cell holds a truth value, and that is true."""
    return not is_missing(value) and bool(value)


def _or_missing(show: Callable[..., str]) -> Callable[..., str]:
    """The formatter, which is asked for what is there only."""

    @wraps(show)
    def shown(value: Any, *more: Any) -> str:
        return MISSING if is_missing(value) else show(value, *more)

    return shown


def listed(value: Any) -> Any:
    """What a list or an object holds, in one line; any other value as it is."""
    if isinstance(value, Mapping):
        value = [f"{name} {item}" for name, item in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


@_or_missing
def text(value: Any) -> str:
    """Any value as text, secrets blanked."""
    if value == "":
        return MISSING
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_float(value):
        return significant(value)
    return redacted(str(value))


def fixed(digits: int, signed: bool = False):
    """A formatter with ``digits`` decimals, and a plus sign on gains if ``signed``."""

    @_or_missing
    def format_value(value: Any) -> str:
        shown = f"{float(value):{'+' if signed else ''},.{digits}f}"
        if not shown.strip("+-0."):
            shown = shown.lstrip("+-")
        return shown.replace("-", _MINUS)

    return format_value


@_or_missing
def difference(value: Any) -> str:
    """Three decimals with a sign, up to six where a difference would look like none."""
    digits = next((count for count in (3, 4, 5, 6) if abs(float(value)) >= 0.5 / 10**count), 3)
    return fixed(digits, signed=True)(value)


@_or_missing
def significant(value: Any, digits: int = 3) -> str:
    """At least ``digits`` significant digits, thousands separated: ``3.03``, ``142``, ``1,864``."""
    number = float(value)
    if number == 0:
        return "0"
    exponent = math.floor(math.log10(abs(number)))
    if exponent < -4 or exponent > 11:
        return scientific(number)
    return f"{number:,.{max(0, digits - 1 - exponent)}f}".replace("-", _MINUS)


@_or_missing
def scientific(value: Any) -> str:
    """Two significant digits and a power of ten: ``3.1`` times ``10⁻⁶``."""
    if float(value) == 0:
        return "0"
    mantissa, exponent = f"{float(value):.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa.replace('-', _MINUS)}{_TIMES}10{power}"


count = fixed(0)
"""An integer with thousands separated."""


def parameters(value: Any) -> str:
    """A number of parameters: ``22.7 M``, ``2.92 B``."""
    return _scaled(value, (("", 1), ("K", 1e3), ("M", 1e6), ("B", 1e9)))


def size_bytes(value: Any) -> str:
    """Bytes in decimal units: ``812 B``, ``91.4 MB``, ``11.7 GB``."""
    return _scaled(value, (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)))


@_or_missing
def size_mb(value: Any) -> str:
    """Megabytes (10**6 bytes), in gigabytes above a thousand."""
    return size_bytes(float(value) * 1e6)


@_or_missing
def milliseconds(value: Any) -> str:
    """A duration with its unit: ``3.03 ms``, ``12.4 s`` above ten seconds."""
    if float(value) >= 10_000:
        return f"{significant(float(value) / 1000)} s"
    return f"{significant(value)} ms"


@_or_missing
def ratio(value: Any) -> str:
    """A speed-up: ``2.35`` and a multiplication sign."""
    return f"{significant(value)}{_TIMES}"


@_or_missing
def change(value: Any) -> str:
    """A relative change: ``+4.2%``."""
    return f"{fixed(1, signed=True)(100 * float(value))}%"


@_or_missing
def p_value(value: Any) -> str:
    """A p-value: two significant digits, ``<0.001`` below that."""
    number = float(value)
    if number < 0.001:
        return "<0.001"
    digits = 4 if f"{number:.3f}" == "0.050" else 3  # which side of 0.05 it is on can be seen
    return f"{number:.{digits}f}" if number < 0.1 else f"{number:.2f}"


def provider(name: Any) -> str:
    """A provider's short name: ``CPUExecutionProvider`` is ``CPU``."""
    return text(str(name).removesuffix("ExecutionProvider") or name)


def words(name: Any) -> str:
    """A name as words: ``single_stream`` is ``single stream``."""
    return text(name).replace("_", " ")


def metric(name: Any) -> str:
    """A metric's label: ``ndcg_at_5`` is ``NDCG@5``."""
    return text(COLUMNS[name].label if name in COLUMNS else name)


@_or_missing
def _scaled(value: Any, units: tuple[tuple[str, float], ...]) -> str:
    number = float(value)
    unit, scale = next(
        ((unit, scale) for unit, scale in reversed(units) if abs(number) >= scale), units[0]
    )
    shown = count(number) if scale == 1 else significant(number / scale)
    return f"{shown} {unit}".strip()


FORMATS: dict[str, Callable[[Any], str]] = {
    **{f"fixed{digits}": fixed(digits) for digits in (2, 3, 5)},
    "signed2": fixed(2, signed=True),
    "signed3": difference,
    **{show.__name__: show for show in (text, words, provider, metric, significant, scientific)},
    **{show.__name__: show for show in (parameters, size_bytes, size_mb, ratio, change, p_value)},
    "count": count,
}
"""What the ``format`` of a column may name."""
