"""The worker's side of the scenarios: calls with given inputs, and requests that arrive."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from colport.latency.arrivals import Batching, WallClock, poisson_arrivals, serve

Encode = Callable[..., list[np.ndarray]]


def timed_calls(
    encode: Encode,
    inputs: Sequence[Any],
    request: Mapping[str, Any],
    check: Callable[[list[np.ndarray], int], object],
) -> dict[str, Any]:
    """Time a call for each batch of a list, and the list again until there are enough seconds.

    Args:
        encode: ``encode_queries`` or ``encode_documents``.
        inputs: All inputs of the kind.
        request: ``batches`` (input numbers of each call), ``seconds`` of calls at least, and
            ``max_seconds`` after which no further call starts, even within the list.
        check: Called with the outputs and the batch size; raises if they are wrong.

    Returns:
        ``durations_ns``, call by call; at least one.
    """
    durations: list[int] = []
    spent, enough, bound = 0, request["seconds"] * 1e9, request["max_seconds"] * 1e9
    while not durations or (spent < enough and spent < bound):
        for numbers in request["batches"]:
            batch = [inputs[number] for number in numbers]
            start = time.perf_counter_ns()
            outputs = encode(batch, batch_size=len(batch))
            durations.append(time.perf_counter_ns() - start)
            check(outputs, len(batch))
            spent += durations[-1]
            if spent >= bound:
                break
    return {"durations_ns": durations}


def serve_requests(
    encode: Encode, inputs: Sequence[Any], request: Mapping[str, Any]
) -> dict[str, Any]:
    """Serve requests that arrive as a Poisson process; see :func:`colport.latency.arrivals.serve`.

    Args:
        encode: ``encode_queries`` or ``encode_documents``.
        inputs: Each request encodes one of them, drawn by ``seed``.
        request: ``rate`` a second, number of ``requests``, ``seed``, ``max_batch``,
            ``max_wait_ms``, and ``limit_ms`` with ``allowed_slow``, which end a run early
            (``limit_ms`` may be ``None``: never).

    Returns:
        ``latencies_ns`` by request, ``batches`` (requests of each call) and ``seconds``.
    """
    count, seed = request["requests"], request["seed"]
    drawn = np.random.default_rng([seed, 1]).integers(len(inputs), size=count).tolist()
    limit = request["limit_ms"]
    served = serve(
        poisson_arrivals(request["rate"], count, seed),
        lambda call: encode([inputs[drawn[number]] for number in call], batch_size=len(call)),
        WallClock(),
        Batching(request["max_batch"], request["max_wait_ms"] / 1e3),
        math.inf if limit is None else limit / 1e3,
        request["allowed_slow"],
    )
    return {
        "latencies_ns": [round(latency * 1e9) for latency in served.latencies],
        "batches": served.batches,
        "seconds": served.seconds,
    }
