"""From figures to places in a drawing, with ticks that a reader can use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_MANTISSAS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,))
_MOST_TICKS = 7


class Tick(NamedTuple):
    """A grid line: its place and its text."""

    at: float
    text: str


class Scale(NamedTuple):
    """One axis; ``note`` ends its name where it is not linear."""

    place: Callable[[float], float]
    ticks: list[Tick]
    note: str = ""


def linear(
    low: float,
    high: float,
    start: float,
    end: float,
    values: Sequence[float],
    digits: int | None = None,
) -> Scale:
    """``low`` at ``start``, ``high`` at ``end``, a tick at each of the values."""

    def place(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    form = "{:,.6g}" if digits is None else f"{{:.{digits}f}}"
    return Scale(place, [Tick(place(value), form.format(value)) for value in values])


def from_zero(high: float, start: float, end: float) -> Scale:
    """From 0 to a round number at or above ``high``, which keeps some room beside it."""
    high = high if math.isfinite(high) and high > 0 else 1.0
    step = nice_step(high * 1.12, 5)
    top = max(step * math.ceil(high * 1.06 / step), step)
    return linear(0.0, top, start, end, [index * step for index in range(round(top / step) + 1)])


def logarithmic(
    low: float,
    high: float,
    start: float,
    end: float,
    pad: float = 0.12,
    show: Callable[[float], str] = "{:,.12g}".format,
) -> Scale:
    """Powers of ten, and round numbers between them where there is room for them."""
    first, last = math.log10(low) - pad, math.log10(high) + pad
    powers = [10.0**power for power in range(math.floor(first), math.ceil(last) + 1)]
    for mantissas in _MANTISSAS:
        candidates = [mantissa * power for power in powers for mantissa in mantissas]
        ticks = [value for value in candidates if first <= math.log10(value) <= last]
        if len(ticks) <= _MOST_TICKS:
            break
    ticks = ticks[:: math.ceil(len(ticks) / _MOST_TICKS) or 1]

    def place(value: float) -> float:
        return start + (math.log10(value) - first) / (last - first) * (end - start)

    return Scale(place, [Tick(place(value), show(value)) for value in ticks], ", logarithmic")


def cost(values: Sequence[float], start: float, end: float) -> Scale:
    """Linear from 0, or logarithmic where the values span a factor of eight."""
    low, high = min(values), max(values)
    if high / low < 8:
        return from_zero(high, start, end)
    return logarithmic(low, high, start, end)


def quality(low: float, high: float, start: float, end: float) -> Scale:
    """Around the values; not beyond 0 and 1 unless they are."""
    pad = max((high - low) * 0.18, 0.012)
    low, high = max(low - pad, min(low, 0.0)), min(high + pad, max(high, 1.0))
    if high <= low:
        low, high = low - pad, high + pad
    step = nice_step(high - low, 5)
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return linear(low, high, start, end, values, max(2, -math.floor(math.log10(step))))


def nice_step(span: float, ticks: int) -> float:
    """1, 2 or 5 times a power of ten, so that about so many fit into the span."""
    raw = span / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
