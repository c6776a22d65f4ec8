"""The worker of the scenarios: one that also serves requests as they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from colport.processes.wire import serve
from colport.timing.server import arrivals
from colport.timing.worker.worker import Worker


class Server(Worker):
    """A worker with one more request, ``serve``."""

    def _serve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Serve a Poisson process of requests; see :func:`colport.timing.server.arrivals.serve`.

        Args:
            request: ``kind`` (each request encodes one input of it, drawn by ``seed``), ``rate`` a
                second, number of ``requests``, ``seed``, ``max_batch``, ``max_wait_ms``, and
                ``limit_ms`` with ``allowed_slow``, which end a run early.

        Returns:
            ``latencies_ns`` by request, ``batches`` (requests of each call) and ``seconds``.
        """
        kind, count, seed = request["kind"], request["requests"], request["seed"]
        generator = np.random.default_rng([seed, 1])
        drawn = generator.integers(len(self._inputs[kind]), size=count).tolist()
        served = arrivals.serve(
            arrivals.poisson_arrivals(request["rate"], count, seed),
            lambda call: self._call(kind, [drawn[number] for number in call]),
            arrivals.Clock(),
            arrivals.Batching(request["max_batch"], request["max_wait_ms"] / 1e3),
            request["limit_ms"] / 1e3,
            request["allowed_slow"],
        )
        return {
            "latencies_ns": [round(latency * 1e9) for latency in served.latencies],
            "batches": served.batches,
            "seconds": served.seconds,
        }


if __name__ == "__main__":
    serve(Server().answer)
