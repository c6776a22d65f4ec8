"""Figures as a reader wants them: few digits, a unit, a real minus sign, an en dash for none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from colport.base.redaction import redacted

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: ``None``, NaN, ``<NA>`` or an infinity."""
    if isinstance(value, str | list | tuple | dict):
        return False
    return bool(pd.isna(value)) or (isinstance(value, float) and math.isinf(value))


def text(value: Any) -> str:
    """Any value as text, secrets blanked."""
    if is_missing(value) or value == "":
        return MISSING
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_float(value):
        return significant(value)
    return redacted(str(value))


def fixed(digits: int, signed: bool = False):
    """A formatter with ``digits`` decimals, and a plus sign on gains if ``signed``."""

    def format_value(value: Any) -> str:
        if is_missing(value):
            return MISSING
        shown = f"{float(value):{'+' if signed else ''},.{digits}f}"
        if not shown.strip("+-0."):
            shown = shown.lstrip("+-")
        return shown.replace("-", _MINUS)

    return format_value


def significant(value: Any, digits: int = 3) -> str:
    """At least ``digits`` significant digits, thousands separated: ``3.03``, ``142``, ``1,864``."""
    if is_missing(value):
        return MISSING
    number = float(value)
    if number == 0:
        return "0"
    exponent = math.floor(math.log10(abs(number)))
    if exponent < -4 or exponent > 11:
        return scientific(number)
    return f"{number:,.{max(0, digits - 1 - exponent)}f}".replace("-", _MINUS)


def scientific(value: Any) -> str:
    """Two significant digits and a power of ten: ``3.1`` times ``10⁻⁶``."""
    if is_missing(value):
        return MISSING
    if float(value) == 0:
        return "0"
    mantissa, exponent = f"{float(value):.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa.replace('-', _MINUS)}{_TIMES}10{power}"


def count(value: Any) -> str:
    """An integer with thousands separated."""
    if is_missing(value):
        return MISSING
    return f"{float(value):,.0f}".replace("-", _MINUS)


def parameters(value: Any) -> str:
    """A number of parameters: ``22.7 M``, ``2.92 B``."""
    return _scaled(value, (("", 1), ("K", 1e3), ("M", 1e6), ("B", 1e9)))


def size_bytes(value: Any) -> str:
    """Bytes in decimal units: ``812 B``, ``91.4 MB``, ``11.7 GB``."""
    return _scaled(value, (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)))


def size_mb(value: Any) -> str:
    """Megabytes (10**6 bytes), in gigabytes above a thousand."""
    return MISSING if is_missing(value) else size_bytes(float(value) * 1e6)


def milliseconds(value: Any) -> str:
    """A duration with its unit: ``3.03 ms``, ``12.4 s`` above ten seconds."""
    if is_missing(value):
        return MISSING
    if float(value) >= 10_000:
        return f"{significant(float(value) / 1000)} s"
    return f"{significant(value)} ms"


def ratio(value: Any) -> str:
    """A speed-up: ``2.35`` and a multiplication sign."""
    return MISSING if is_missing(value) else f"{significant(value)}{_TIMES}"


def change(value: Any) -> str:
    """A relative change: ``+4.2%``."""
    return MISSING if is_missing(value) else f"{fixed(1, signed=True)(100 * float(value))}%"


def p_value(value: Any) -> str:
    """A p-value: two significant digits, ``<0.001`` below that."""
    if is_missing(value):
        return MISSING
    number = float(value)
    if number < 0.001:
        return "<0.001"
    return f"{number:.3f}" if number < 0.1 else f"{number:.2f}"


def provider(name: Any) -> str:
    """A provider's short name: ``CPUExecutionProvider`` is ``CPU``."""
    return text(str(name).removesuffix("ExecutionProvider") or name)


def words(name: Any) -> str:
    """A name as words: ``single_stream`` is ``single stream``."""
    return text(name).replace("_", " ")


def _scaled(value: Any, units: tuple[tuple[str, float], ...]) -> str:
    if is_missing(value):
        return MISSING
    number = float(value)
    unit, scale = next(
        ((unit, scale) for unit, scale in reversed(units) if abs(number) >= scale), units[0]
    )
    shown = count(number) if scale == 1 else significant(number / scale)
    return f"{shown} {unit}".strip()


FORMATS: dict[str, Callable[[Any], str]] = {
    **{f"fixed{digits}": fixed(digits) for digits in (2, 3, 5)},
    **{f"signed{digits}": fixed(digits, signed=True) for digits in (2, 3)},
    **{
        function.__name__: function
        for function in (
            *(text, words, provider, count, significant, scientific),
            *(parameters, size_bytes, size_mb, ratio, change, p_value),
        )
    },
}
"""What the ``format`` of a column may name."""
