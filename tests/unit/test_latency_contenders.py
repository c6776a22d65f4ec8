"""Synthetic contenders of known duration; workers import this module, so it imports little."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from colport.base.errors import UnsupportedError


class Sleeper:
    """Takes ``pattern`` milliseconds, one after the other, an input; asleep, so that a busy machine
    changes little."""

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
        time.sleep(max(0, start + duration - time.perf_counter_ns()) / 1e9)
        return [np.zeros((self.tokens, 4), dtype=np.float32) for _ in items]


class Loaded(Sleeper):
    """Its calls name the Python objects that a full collection would look at, as tokens."""

    def _encode(self, kind, items, batch_size):
        outputs = super()._encode(kind, items, batch_size)
        return [np.zeros((len(gc.get_objects()), 1), np.float32) for _ in outputs]


def loaded(objects):
    encoder = Loaded([1])
    encoder.kept = [[] for _ in range(objects)]
    return encoder


def sleeper(**arguments):
    return Sleeper(**arguments)


def slow_to_load(seconds):
    time.sleep(seconds)
    return Sleeper([1])


def big(megabytes):
    encoder = Sleeper([1])
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


class Tensors(Sleeper):
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
    return Sleeper([1], hang_kind="query")


def has_loaded(module):
    assert module not in sys.modules
    return Sleeper([1])


class InParts(Sleeper):
    """Spends 6 ms on preprocessing, 12 ms in the model and 2 ms on cutting out, an input."""

    def __init__(self):
        super().__init__([20])

    def prepare_queries(self, texts):
        return self._sleep(texts, 6)

    def prepare_documents(self, items):
        return self._sleep(items, 6)

    def run(self, batch):
        return self._sleep(batch, 12)

    def _sleep(self, items, milliseconds):
        time.sleep(milliseconds * len(items) / 1000)
        return items


def in_parts():
    return InParts()


class Greedy(Sleeper):
    """Needs ``megabytes`` for each document of a batch; queries need none."""

    def __init__(self, megabytes, library):
        super().__init__([1])
        self.megabytes = megabytes
        self.library = library

    def encode_documents(self, items, batch_size):
        size = self.megabytes * 2**20 * batch_size
        if self.library == "torch":
            import torch

            torch.empty(size, dtype=torch.uint8)
        else:
            np.empty(size, dtype=np.uint8)
        return super().encode_documents(items, batch_size)


def greedy(megabytes, library="numpy"):
    return Greedy(megabytes, library)


class OutOfMemoryError(RuntimeError):
    """As torch names it on a device."""


class SaysNo(Sleeper):
    """Raises ``message`` for documents from ``batch_size`` 4 on."""

    def __init__(self, message):
        super().__init__([1])
        self.message = message

    def encode_documents(self, items, batch_size):
        if batch_size >= 4:
            raise OutOfMemoryError(self.message)
        return super().encode_documents(items, batch_size)


def says_no(message):
    return SaysNo(message)


class Killed(Sleeper):
    """Is killed as by the kernel at documents of batch size 4, after ``calls`` calls of them."""

    def __init__(self, calls):
        super().__init__([1])
        self.left = calls

    def encode_documents(self, items, batch_size):
        if batch_size == 4:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_documents(items, batch_size)


def killed(calls=0):
    return Killed(calls)


class HangsAfter(InParts):
    """Hangs in the call, or the part of one, after so many."""

    def __init__(self, calls):
        super().__init__()
        self.pattern = [1]
        self.left = calls

    def encode_queries(self, texts, batch_size):
        self._count()
        return super().encode_queries(texts, batch_size)

    def run(self, batch):
        self._count()
        return batch

    def _count(self):
        self.left -= 1
        if self.left < 0:
            time.sleep(600)


def hangs_after(calls):
    return HangsAfter(calls)


class TellsCores(Sleeper):
    """Its token counts are the cores that it may use."""

    def encode_queries(self, texts, batch_size):
        return [np.zeros((len(os.sched_getaffinity(0)), 4)) for _ in texts]


def tells_cores():
    return TellsCores([1])
