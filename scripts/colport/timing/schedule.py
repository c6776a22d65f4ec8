"""Who runs when, and for how long: pure functions, no clock."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from colport.timing.settings import Case, LatencySettings

STABLE_CALLS = 3
STABLE_SPREAD = 0.10


@dataclass(frozen=True)
class Block:
    """Orders for one block of calls.

    Attributes:
        settle: Calls before the samples.
        calls: Samples, at least.
        seconds: Seconds of samples, at least.
        max_seconds: No call starts after so many seconds, the first sample excepted.
    """

    settle: int
    calls: int
    seconds: float
    max_seconds: float


def turns(
    contenders: int, cases: Sequence[Case], rounds: int, seed: int
) -> Iterator[tuple[int, Case, list[int]]]:
    """For each round and case, the order of the contenders.

    The contenders of a case follow each other directly, so that a drift of the machine's speed
    meets all of them alike.

    Yields:
        The round from 0 up, the case, and the shuffled contender indices.
    """
    generator = random.Random(seed)
    for number in range(rounds):
        for case in cases:
            order = list(range(contenders))
            generator.shuffle(order)
            yield number, case, order


def plan_block(
    settings: LatencySettings,
    round_number: int,
    samples: int,
    sampled_seconds: float,
    spent_seconds: float,
    call_seconds: float,
) -> Block | None:
    """Share out what is left to measure of a case over the rounds that are left.

    Args:
        settings: The minima and the bound.
        round_number: The coming round, from 0 up.
        samples: Samples so far.
        sampled_seconds: Seconds of these samples.
        spent_seconds: The same with the settling calls.
        call_seconds: What a call takes, roughly.

    Returns:
        The block, or ``None`` where ``max_seconds`` is used up.
    """
    if samples and spent_seconds >= settings.max_seconds:
        return None
    left = settings.rounds - round_number
    calls = max(1, math.ceil((settings.min_samples - samples) / left))
    bound = (settings.max_seconds - spent_seconds) / left
    fits = call_seconds * (settings.settle_calls + calls) <= bound
    return Block(
        settle=settings.settle_calls if fits else 0,
        calls=calls,
        seconds=max(0.0, settings.min_seconds - sampled_seconds) / left,
        max_seconds=bound,
    )


def is_stable(durations: Sequence[float]) -> bool:
    """Whether the last three durations lie within 10% of each other."""
    last = durations[-STABLE_CALLS:]
    return len(last) == STABLE_CALLS and max(last) <= (1 + STABLE_SPREAD) * min(last)
