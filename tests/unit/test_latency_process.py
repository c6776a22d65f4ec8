"""The parent's side of a worker without a worker: environments, ends of processes, lines."""

import os
import signal
from pathlib import Path

import pytest

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
    assert found["PYTHONUNBUFFERED"] == "1"
    monkeypatch.delenv("PYTHONPATH")
    assert process._environment(1)["PYTHONPATH"] == package


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "closed its output without ending"),
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGKILL, "killed by SIGKILL (often: out of memory)"),
        (-250, "killed by signal 250"),
    ],
)
def test_how_a_process_ended(code, text):
    assert process._describe_exit(code) == text


def test_a_reason_is_one_line_of_bounded_length():
    assert process._one_line("a\n  b\tc") == "a b c"
    assert process._one_line("x" * 600) == "x" * 600
    assert process._one_line("x" * 601) == "x" * 599 + "…"


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


class Deadline(process.WorkerProcess):
    """Notes until when an answer is waited for."""

    def __init__(self):
        self._timeout, self._ready, self.deadlines = 5.0, True, []
        self.peak_rss_mb = None

    def _write(self, data, deadline):
        self.deadlines.append(deadline)

    def _read_line(self, deadline):
        self.deadlines.append(deadline)
        return b'{"peak_rss_mb": 12.5, "value": 1}'


def test_an_answer_may_take_what_was_asked_for_and_the_timeout(monkeypatch):
    monkeypatch.setattr(process.time, "monotonic", lambda: 100.0)
    worker = Deadline()
    assert worker.ask("block", wait_seconds=30.0, calls=3)["value"] == 1
    assert worker.ask("first")["value"] == 1
    assert worker.deadlines == [135.0, 135.0, 105.0, 105.0]
    assert worker.peak_rss_mb == 12.5


def test_an_error_of_the_contender_keeps_what_it_says(monkeypatch):
    reply = b'{"peak_rss_mb": 1, "error": "E: a\\nb", "traceback": "t", "unsupported": true, '
    reply += b'"out_of_memory": false}'
    worker = Deadline()
    monkeypatch.setattr(worker, "_read_line", lambda deadline: reply)
    with pytest.raises(WorkerFailure) as caught:
        worker.ask("first")
    found = caught.value
    assert (found.reason, found.detail) == ("E: a b", "t")
    assert (found.unsupported, found.out_of_memory, found.ended) == (True, False, False)
