"""The parent's side of a worker without a worker: environments, and what its end means."""

import os
import signal
from pathlib import Path

import pytest

from colport.processes.child import ChildError
from colport.timing.worker import process
from colport.timing.worker.process import WorkerFailure


def test_a_worker_s_libraries_have_the_threads_that_are_asked_for(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = process._environment(3)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    assert {found[name] for name in names} == {"3"}
    package, mine = found["PYTHONPATH"].split(os.pathsep)
    assert mine == "/mine"
    assert Path(package, "colport").is_dir()
    monkeypatch.delenv("PYTHONPATH")
    assert process._environment(1)["PYTHONPATH"] == package


@pytest.mark.parametrize(
    ("stat", "runs"),
    [
        ("7 (python) R 1 2", True),
        ("7 (a) R b) S 1 2", False),
        ("7 (a) S b) R 1 2", True),
        ("7 (python) D 1 2", False),
        ("", False),
    ],
)
def test_which_threads_run(tmp_path, stat, runs):
    (tmp_path / "stat").write_text(stat)
    assert process._is_running(tmp_path / "stat") is runs
    assert process._is_running(tmp_path / "gone") is False


@pytest.mark.parametrize("memory", [True, False])
def test_want_of_memory_alone_is_a_limit(memory):
    failure = WorkerFailure("r", "d", ended=True, out_of_memory=memory, killed=not memory)
    limit = failure.as_limit("why")
    assert (limit.reason, limit.detail, limit.unsupported) == ("why", "d", memory)
    assert (limit.ended, limit.killed, limit.out_of_memory) == (False, False, False)


class Answers:
    """A child that gives one answer, and notes how long it was given."""

    def __init__(self, answer):
        self.answer, self.seconds = answer, []

    def ask(self, request, seconds):
        self.seconds.append(seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def worker_of(answer):
    worker = object.__new__(process.WorkerProcess)
    worker._child, worker._timeout, worker._kernel_kills = Answers(answer), 5.0, 0
    return worker


def test_an_answer_may_take_what_was_asked_for_and_the_timeout():
    worker = worker_of({"peak_rss_mb": 12.5, "value": 1})
    assert worker.ask("block", wait_seconds=30.0, calls=3)["value"] == 1
    assert worker.ask("first")["value"] == 1
    assert worker._child.seconds == [35.0, 5.0]
    assert worker.peak_rss_mb == 12.5


def test_an_error_of_the_contender_keeps_what_it_says():
    reply = {"peak_rss_mb": 1, "error": "E: a\nb", "traceback": "t", "unsupported": True}
    with pytest.raises(WorkerFailure) as caught:
        worker_of({**reply, "out_of_memory": False}).ask("first")
    found = caught.value
    assert (found.reason, found.detail) == ("E: a b", "t")
    assert (found.unsupported, found.out_of_memory, found.ended) == (True, False, False)


@pytest.mark.parametrize(
    ("code", "output", "memory", "killed"),
    [
        (-signal.SIGKILL, "std::bad_alloc", False, True),
        (-signal.SIGABRT, "std::bad_alloc", True, False),
        (-signal.SIGABRT, "assertion", False, False),
        (3, "std::bad_alloc", False, False),
        (None, "", False, False),
    ],
)
def test_what_the_end_of_a_worker_says_of_memory(monkeypatch, code, output, memory, killed):
    monkeypatch.setattr(process, "kernel_kills", lambda: 0)
    with pytest.raises(WorkerFailure) as caught:
        worker_of(ChildError("cause", output, code)).ask("first")
    found = caught.value
    assert found.reason == ("cause; last output: " + output if output else "cause")
    assert (found.detail, found.ended, found.unsupported) == (output, True, False)
    assert (found.out_of_memory, found.killed) == (memory, killed)
