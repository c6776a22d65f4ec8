"""Batches of inputs of unequal length, and how the cores are split between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from colport.base.machine import asked_threads, available_mb, usable_cores
from colport.providers import ProviderSettings

_TOKENS, _FEWEST_TOKENS = 512, 128
"""Of a batch on a CPU: more only adds padding and leaves the caches (benchmarks/throughput.md)."""
_LEAST_WORK = 3e9
"""Multiply-adds of a batch at least: two threads of this interpreter that finish calls of a few
milliseconds wait for each other longer than the calls take."""
_TOKENS_ELSEWHERE = 8192  # eight pages of 1024
_MOST_WORKERS = 16
_MEMORY_FOR_SECOND = 0.25
"""Share of the available memory up to which weights are opened a second time."""


def workers(
    settings: ProviderSettings, threads: int | None, asked: int | None, second_mb: float
) -> tuple[int, int | None]:
    """Batches that run beside each other, and the threads of each.

    On CPUs, operators of batches beside each other wait for no other thread, and inputs are
    prepared meanwhile. Elsewhere two batches take turns: one is prepared while the other one runs.

    Args:
        settings: The provider.
        threads: Threads of all, as the caller asks; by default the provider's, those of
            ``OMP_NUM_THREADS``, or the usable cores.
        asked: Batches, as the caller asks.
        second_mb: Memory that sessions with fewer threads take besides, in MB (10**6 bytes).

    Returns:
        Both; no threads where the batches run in the sessions that there are.
    """
    if settings.provider.name != "cpu":
        return asked or 2, None
    cores = threads or settings.threads or asked_threads() or usable_cores()
    if asked is None:
        fits = second_mb <= _MEMORY_FOR_SECOND * available_mb()
        asked = min(cores, _MOST_WORKERS) if fits else 1
    return asked, None if asked == 1 else max(1, cores // asked)


def budget(lengths: Sequence[int], settings: ProviderSettings, beside: int, parameters: int) -> int:
    """Tokens of a batch, padding included, with which few inputs still occupy every worker.

    Args:
        lengths: Tokens of each input.
        settings: The provider.
        beside: Batches that run beside each other.
        parameters: Of the graph; each token takes about as many multiply-adds.
    """
    if settings.provider.name != "cpu":
        return _TOKENS_ELSEWHERE
    least = max(_FEWEST_TOKENS, math.ceil(_LEAST_WORK / max(1, parameters)))
    return max(least, min(_TOKENS, math.ceil(sum(lengths) / beside)))


def by_length(lengths: Sequence[int], size: float, tokens: float) -> list[list[int]]:
    """Places of inputs in batches of like lengths, the longest first.

    Args:
        lengths: Tokens of each input.
        size: Inputs that a batch may have.
        tokens: Tokens that a batch may have, padding included; a longer input is one of its own.

    Returns:
        The places of each batch, in ascending order.

    >>> by_length([5, 30, 6, 4], size=2, tokens=32)
    [[1], [0, 2], [3]]
    """
    batches: list[list[int]] = []
    room = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not room:
            batches.append([])
            room = max(1, min(size, tokens // max(1, lengths[place])))
        batches[-1].append(place)
        room -= 1
    return [sorted(batch) for batch in batches]


def last_alone(batches: int, beside: int) -> int:
    """Batches at the end that run one by one on all threads, since they would leave cores idle."""
    rest = batches % beside
    return batches if beside == 1 else rest if rest <= beside // 2 else 0
