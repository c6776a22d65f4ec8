"""Short latency runs of synthetic contenders, for the tests of the protocol."""

import json
import os
from types import SimpleNamespace
from typing import Any

from colport.timing import rounds
from colport.timing.runner import measure
from colport.timing.settings import Contender, Inputs, LatencySettings
from colport.timing.worker import worker
from colport.timing.worker.process import WorkerFailure

QUICK = {
    "batch_sizes": (1,),
    "rounds": 2,
    "min_samples": 4,
    "min_seconds": 0.0,
    "max_seconds": 5.0,
    "precision": 0.0,
    "warmup_max_calls": 3,
    "warmup_max_seconds": 10.0,
    "threads": 1,
    "quiet_wait_s": 0.0,
    "timeout_s": 60.0,
}
ONE_QUERY = Inputs(queries=("a red pie chart",))
BOTH_KINDS = Inputs(queries=("q",), documents=("d",))


def contender(variant, factory="sleeper", **arguments):
    return Contender("m", variant, "cpu", f"test_latency_contenders:{factory}", arguments)


def run(contenders, inputs=ONE_QUERY, **settings):
    chosen = LatencySettings(**{**QUICK, **settings})
    return measure(contenders, inputs, chosen, progress=lambda message: None)


class Clock:
    """Nanoseconds that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


class WorkerInPlace:
    """A worker in this process: what a run computes from its clock is then exact."""

    pid = os.getpid()
    peak_rss_mb: float | None = None

    def __init__(self, *_: Any) -> None:
        self._worker = worker.Worker()

    def ask(self, request: str, wait_seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
        line = json.dumps({"request": request, **fields})
        reply = json.loads(json.dumps(self._worker.answer(json.loads(line))))
        self.peak_rss_mb = reply["peak_rss_mb"]
        if "error" in reply:
            flags = {name: reply[name] for name in ("unsupported", "out_of_memory")}
            raise WorkerFailure(reply["error"], reply["traceback"], **flags)
        return reply

    def wait_quiet(self) -> bool:
        return True

    def stop(self, grace_s: float = 0.0) -> None:
        pass

    close_requests = stop


def in_place(monkeypatch: Any, *contenders: Any) -> Clock:
    """Workers of this process, and a clock for them and the modules of their contenders."""
    clock = Clock()
    fake = SimpleNamespace(perf_counter_ns=clock.perf_counter_ns, sleep=clock.sleep)
    for module in (worker, *contenders):
        monkeypatch.setattr(module, "time", fake)
    monkeypatch.setattr(rounds, "WorkerProcess", WorkerInPlace)
    monkeypatch.setattr(worker, "_limit_torch", lambda threads: None)
    monkeypatch.setattr(worker, "_keep_from_collection", lambda: None)
    return clock
