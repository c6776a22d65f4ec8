"""Threads: a core each while a contender is timed, and one for NumPy beside a runtime's own."""

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from colport.families.pages import images
from colport.timing.worker import cores


def test_the_busiest_threads_get_a_core_each():
    ticks = {10: 5, 11: 90, 12: 0, 13: 400, 14: 90}
    assert cores.assign(ticks, 10, [2, 4, 6]) == {10: 2, 13: 4, 11: 6, 12: None, 14: None}


def test_threads_without_work_are_not_pinned():
    assert cores.assign({10: 0, 11: 0}, 10, [0, 1]) == {10: 0, 11: None}
    assert cores.assign({10: 3, 11: 7}, 10, [5]) == {10: 5, 11: None}


PLACED = """
import os, threading, time
from colport.timing.worker.cores import _cpu_ticks, place, release
cores = sorted(os.sched_getaffinity(0))[:2]
ids, end = [], threading.Event()
def work():
    ids.append(threading.get_native_id())
    while not end.is_set():
        sum(range(1000))
def idle():
    ids.append(threading.get_native_id())
    end.wait()
for target in (work, idle):
    threading.Thread(target=target, daemon=True).start()
while not _cpu_ticks().get(ids[0] if ids else 0):
    time.sleep(0.01)
place(cores)
main, busy, quiet = (os.sched_getaffinity(number) for number in (os.getpid(), *ids))
assert (main, busy, quiet) == ({cores[0]}, {cores[1]}, set(cores)), (main, busy, quiet)
release(cores)
assert all(os.sched_getaffinity(number) == set(cores) for number in (os.getpid(), *ids))
end.set()
"""


@pytest.mark.skipif(not cores.can_place(), reason="this system does not pin threads")
def test_threads_of_a_process_are_placed_and_released():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("takes two cores")
    done = subprocess.run([sys.executable, "-c", PLACED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_numpy_has_one_thread_meanwhile():
    with threadpool_limits(3, user_api="blas"):
        if blas_threads() != {3}:
            pytest.skip("this NumPy's library has no threads")
        with images.one_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {3}


def test_a_page_is_resized_in_one_thread(monkeypatch):
    """Else threads of OpenBLAS spin on beside those of the graph."""
    seen, filters = set(), images._filter

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            seen.update(blas_threads())
            return getattr(ufunc, method)(*map(np.asarray, inputs), **options)

    def watched(*sizes):
        before, step, weights, *rest = filters(*sizes)
        return before, step, weights.view(Watched), *rest

    monkeypatch.setattr(images, "_filter", watched)
    with threadpool_limits(2, user_api="blas"):
        images.resize(np.zeros((3, 60, 40), np.uint8), 30, 20)
    assert seen == {1}
