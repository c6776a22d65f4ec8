"""Out of memory at a batch size, workers that are killed, and the parts of a call."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from colport.timing import statistics
from colport.timing.settings import Case
from colport.timing.worker import memory
from colport.timing.worker.process import WorkerFailure, WorkerProcess
from tests.latency_runs import BOTH_KINDS, contender, run

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _contenders_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def by_case(payload, variant):
    rows = [row for row in payload["rows"] if row["variant"] == variant]
    return {(row["kind"], row["batch_size"]): row for row in rows}


@pytest.mark.parametrize(("library", "limit"), [("numpy", 1000), ("torch", 3000)])
def test_memory_runs_out_at_a_batch_size(library, limit):
    """For real; a document takes 0.15 of what may be allocated, importing torch half of it."""
    payload = run(
        [contender("fp32", "greedy", megabytes=limit * 3 // 20, library=library)],
        BOTH_KINDS,
        batch_sizes=(1, 2, 8, 16),
        max_memory_mb=limit,
    )
    rows = by_case(payload, "fp32")
    assert [rows["query", size]["status"] for size in (1, 2, 8, 16)] == ["ok"] * 4
    assert [rows["document", size]["status"] for size in (1, 2)] == ["ok"] * 2
    for size in (8, 16):
        assert rows["document", size]["status"] == "unsupported"
        assert rows["document", size]["reason"] == (
            "out of memory at batch size 8; the largest that ran is 2"
        )


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB.",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested "
        "buffer of size 1234",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        "std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_allocators_are_known_by_their_words(message):
    rows = by_case(
        run([contender("fp32", "says_no", message=message)], BOTH_KINDS, batch_sizes=(8, 4, 1)),
        "fp32",
    )
    for size in (4, 8):
        assert rows["document", size]["reason"] == (
            "out of memory at batch size 4; the largest that ran is 1"
        )
    assert rows["document", 1]["status"] == "ok"


def test_another_error_is_no_want_of_memory():
    rows = by_case(
        run([contender("fp32", "says_no", message="no")], BOTH_KINDS, batch_sizes=(1, 4)), "fp32"
    )
    assert rows["document", 4]["status"] == "failed"
    assert rows["document", 4]["reason"] == "OutOfMemoryError: no"


@pytest.mark.parametrize("calls", [0, 4], ids=["in the first call", "in a round"])
def test_killed_worker_is_started_again_with_what_fits(calls):
    payload = run(
        [contender("int8", "killed", calls=calls), contender("pytorch", pattern=[1])],
        BOTH_KINDS,
        batch_sizes=(1, 4, 8),
    )
    rows = by_case(payload, "int8")
    assert {row["status"] for row in by_case(payload, "pytorch").values()} == {"ok"}
    for case in (("query", 1), ("query", 4), ("query", 8), ("document", 1)):
        assert rows[case]["status"] == "ok"
        assert rows[case]["samples"] >= 4
        assert rows[case]["reason"] == (
            "the process ended at document batch size 4 and was started again"
        )
    for size in (4, 8):
        assert rows["document", size]["status"] == "failed"
        assert rows["document", size]["reason"] == (
            "killed by SIGKILL (often: out of memory) at batch size 4; the largest that ran is 1"
        )


def test_kill_by_the_kernel_is_a_limit(monkeypatch):
    counts = iter([0, 1])
    monkeypatch.setattr("colport.timing.worker.process.kernel_kills", lambda: next(counts))
    worker = WorkerProcess(threads=1, timeout_s=30)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailure) as caught:
        worker.ask("first")
    assert caught.value.out_of_memory
    assert caught.value.as_limit("r").unsupported


def test_kernel_kills_are_read(tmp_path):
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 3\nnuma_hit 1\n")
    assert memory.kernel_kills(tmp_path / "vmstat") == 3
    assert memory.kernel_kills(tmp_path / "missing") == 0


def test_loading_beyond_the_limit_is_a_limit():
    row = run([contender("fp32", "big", megabytes=3000)], max_memory_mb=1000)["rows"][0]
    assert (row["status"], row["reason"]) == ("unsupported", "out of memory while loading")


def test_cosines_are_against_the_reference():
    case = Case("query", 1)
    rows = [statistics.make_row("m", name, "cpu", case) for name in ("fp32", "pytorch", "other")]
    outputs = [
        [np.array([[2.0, 0.0], [1.0, 1.0]])],
        [np.array([[1.0, 0.0], [1.0, 0.0]])],
        [np.array([[1.0, 0.0]])],
    ]
    statistics.add_cosines(rows, outputs)
    assert rows[0]["min_cosine"] == pytest.approx(0.5**0.5)
    assert rows[0]["mean_cosine"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert rows[1]["min_cosine"] == 1
    assert rows[2]["min_cosine"] is None
