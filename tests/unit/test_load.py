"""What a worker does for the scenarios, on an encoder that only takes time."""

import time

import numpy as np
import pytest

from colport.latency.arrivals import poisson_arrivals
from colport.latency.load import serve_requests, timed_calls

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


def calls(encode, batches, seconds=0.0, max_seconds=60.0):
    checked = []
    request = {"batches": batches, "seconds": seconds, "max_seconds": max_seconds}
    reply = timed_calls(encode, INPUTS, request, lambda outputs, size: checked.append(size))
    assert checked == [len(batch) for batch in encode.calls]
    return reply["durations_ns"]


def serve(encode, **request):
    defaults = {"rate": 1000.0, "requests": 20, "seed": 0, "max_batch": 4, "max_wait_ms": 0.0}
    return serve_requests(
        encode, INPUTS, {**defaults, "limit_ms": None, "allowed_slow": 0, **request}
    )


def test_calls_encode_the_inputs_of_their_list_in_whole_passes():
    encode = Encoder(0.002)
    durations = calls(encode, [[2, 0], [1]], seconds=0.2)
    passes = len(durations) // 2
    assert passes > 1
    assert encode.calls == [["c", "a"], ["b"]] * passes
    assert sum(durations) >= 0.2e9 > sum(durations[:-2])


def test_calls_end_at_their_bound():
    assert len(calls(Encoder(0.002), [[0]] * 50, seconds=9, max_seconds=0.001)) == 1


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
