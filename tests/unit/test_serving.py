"""What a worker does with passes and with requests, on an encoder that only takes time."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from colport.timing.server import serving
from colport.timing.server.arrivals import poisson_arrivals
from colport.timing.server.serving import Server

INPUTS = ["a", "b", "c"]


class Encoder:
    def __init__(self, seconds):
        self.seconds = seconds
        self.calls = []

    def __call__(self, batch, batch_size):
        assert len(batch) == batch_size
        self.calls.append(batch)
        time.sleep(self.seconds)
        return [np.zeros((2, 4)) for _ in batch]


def asked(encode, request, **fields):
    server = Server()
    server._encoder = SimpleNamespace(encode_queries=encode)
    server._inputs = {"query": INPUTS}
    reply = server.answer({"request": request, "kind": "query", **fields})
    assert "error" not in reply, reply["traceback"]
    return reply


def calls(encode, batches, seconds=0.0, max_seconds=60.0, settle=0):
    bounds = {"calls": 1, "seconds": seconds, "max_seconds": max_seconds}
    return asked(encode, "block", batches=batches, settle=settle, **bounds)["durations_ns"]


def serve(encode, **request):
    defaults = {"rate": 1000.0, "requests": 20, "seed": 0, "max_batch": 4, "max_wait_ms": 0.0}
    given = {**defaults, "limit_ms": 60_000.0, "allowed_slow": 0, **request}
    return asked(encode, "serve", **given)


def test_calls_encode_the_inputs_of_their_list_in_whole_passes():
    encode = Encoder(0.002)
    durations = calls(encode, [[2, 0], [1]], seconds=0.2)
    passes = len(durations) // 2
    assert passes > 1
    assert encode.calls == [["c", "a"], ["b"]] * passes
    assert sum(durations) >= 0.2e9 > sum(durations[:-2])


def test_calls_end_at_their_bound():
    assert len(calls(Encoder(0.002), [[0]] * 50, seconds=9, max_seconds=0.001)) == 1


def test_a_call_that_does_not_count_is_the_first_of_a_pass():
    encode = Encoder(0)
    assert len(calls(encode, [[1], [2, 0]], settle=1)) == 2
    assert encode.calls == [["b"], ["b"], ["c", "a"]]


def test_a_warm_up_sees_every_batch_unless_it_may_not():
    for most, seen in ((20, ["a", "b", "c", "a", "b"]), (2, ["a", "b"])):
        encode = Encoder(0.02)
        batches = [[0], [1], [2], [0], [1]]
        reply = asked(encode, "warm_up", batches=batches, max_calls=most, max_seconds=60.0)
        assert [batch[0] for batch in encode.calls][: len(seen)] == seen
        assert len(encode.calls) == len(reply["durations_ns"]) >= len(seen)


def test_a_server_batches_what_waits():
    encode = Encoder(0.01)
    reply = serve(encode)
    assert sum(reply["batches"]) == len(reply["latencies_ns"]) == 20
    assert reply["batches"] == [len(batch) for batch in encode.calls]
    assert max(reply["batches"]) == 4
    # The last request's latency ends with the run, and counts from its scheduled arrival.
    last = poisson_arrivals(1000.0, 20, 0)[-1]
    assert reply["latencies_ns"][-1] / 1e9 == pytest.approx(reply["seconds"] - last, abs=1e-6)


def test_a_server_draws_its_inputs_by_seed():
    first, same, other = Encoder(0), Encoder(0), Encoder(0)
    for encode, seed in ((first, 0), (same, 0), (other, 1)):
        serve(encode, seed=seed, max_batch=1)
    assert first.calls == same.calls != other.calls
    assert {batch[0] for batch in first.calls} == set(INPUTS)


def test_a_hopeless_run_is_given_up():
    reply = serve(Encoder(0.005), max_batch=1, limit_ms=8.0, allowed_slow=2)
    assert 3 <= len(reply["latencies_ns"]) < 20
    assert sum(latency > 8e6 for latency in reply["latencies_ns"]) == 3


def test_requests_arrive_as_they_were_asked_for(monkeypatch):
    asked = []

    def arrive(*given):
        asked.append(given)
        return poisson_arrivals(*given)

    monkeypatch.setattr(serving.arrivals, "poisson_arrivals", arrive)
    for seed in (3, 4):
        serve(Encoder(0), rate=500.0, requests=5, seed=seed)
    assert asked == [(500.0, 5, 3), (500.0, 5, 4)]
