"""Synthetic contenders of known duration; workers import this module, so it imports little."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from colport.errors import UnsupportedError


class Spinner:
    """Keeps one core busy for ``pattern`` milliseconds, one after the other, an input."""

    def __init__(self, pattern, tokens=7, fail_kind=None, hang_kind=None, chatter=False):
        self.pattern = pattern
        self.tokens = tokens
        self.fail_kind = fail_kind
        self.hang_kind = hang_kind
        self.chatter = chatter
        self.calls = 0
        self.seen = []

    def encode_queries(self, texts, batch_size):
        return self._encode("query", texts, batch_size)

    def encode_documents(self, items, batch_size):
        return self._encode("document", items, batch_size)

    def _encode(self, kind, items, batch_size):
        start = time.perf_counter_ns()
        assert len(items) == batch_size
        if kind == self.fail_kind:
            raise ValueError(f"no {kind} today\nsecond line")
        if kind == self.hang_kind:
            time.sleep(600)
        if self.chatter:
            print('{"not": "the protocol"}')
            sys.stdout.flush()
            os.write(1, b"raw bytes to descriptor 1\n")
            subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
            assert sys.stdin.read() == ""
        duration = self.pattern[self.calls % len(self.pattern)] * batch_size * 1_000_000
        self.calls += 1
        while time.perf_counter_ns() - start < duration:
            pass
        return [np.zeros((self.tokens, 4), dtype=np.float32) for _ in items]


def spinner(**arguments):
    return Spinner(**arguments)


def slow_to_load(seconds):
    time.sleep(seconds)
    return Spinner([1])


def big(megabytes):
    encoder = Spinner([1])
    encoder.ballast = np.ones(megabytes * 2**20, dtype=np.uint8)
    return encoder


def dies(name="SIGSEGV"):
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, name))


def exits():
    print("leaving", file=sys.stderr, flush=True)
    os._exit(3)


def unsupported():
    raise UnsupportedError("Provider X is not on this machine.")


class Tensors(Spinner):
    def encode_queries(self, texts, batch_size):
        return [[[0.0]] for _ in texts]


def not_arrays():
    return Tensors([1])


def pages_and_threads():
    """Says through its token counts what it was given: page size and the thread variables."""
    return Witness()


class Witness:
    def encode_queries(self, texts, batch_size):
        return [np.zeros((int(os.environ["OMP_NUM_THREADS"]), 4)) for _ in texts]

    def encode_documents(self, items, batch_size):
        assert all(item.mode == "RGB" for item in items)
        return [np.zeros((item.size[0], 4)) for item in items]


def leaves_traces(folder):
    """Writes its process id and that of a child that would outlive it."""
    child = subprocess.Popen(["sleep", "600"])
    Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
    return Spinner([1], hang_kind="query")


def has_loaded(module):
    assert module not in sys.modules
    return Spinner([1])
