"""Mapped files that leave a process's memory, but for what was written to."""

import mmap
import sys
import threading

import numpy as np
import pytest

from colport.tensors import mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
SIZE = 32 * 2**20
MB = 1e6


@pytest.fixture
def weights(tmp_path):
    """Bytes of a file, mapped to be read and to be written to, on pages of this process alone."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    values = np.arange(SIZE // 4, dtype=np.uint32)
    values.tofile(folder / "weights.onnx_data")
    with (folder / "weights.onnx_data").open("rb") as stream:
        return folder, [
            np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY), np.uint32)
            for _ in range(2)
        ]


def held(before, read):
    """Megabytes of files beyond ``before`` once ``read`` was summed up and the watch has looked."""
    looked, once = threading.Event(), mapped._resident_files
    read.sum()
    calls = []

    def count():
        calls.append(once())
        if len(calls) > 2:
            looked.set()
        return calls[-1]

    mapped._resident_files = count
    assert looked.wait(30)
    mapped._resident_files = once
    return (once() - before) / MB


def test_pages_beyond_the_limit_leave_and_come_back_as_they_were(weights):
    folder, (first, second) = weights
    before = mapped._resident_files()
    with mapped.few_resident(folder, 8):
        assert held(before, first) < 8
        assert first.sum(dtype=np.uint64) == np.arange(SIZE // 4, dtype=np.uint64).sum()
    second.sum()
    assert mapped._resident_files() - before > 0.9 * SIZE, "nobody looks any more"


def test_pages_within_the_limit_and_those_of_other_folders_stay(weights, tmp_path):
    folder, (first, second) = weights
    before = mapped._resident_files()
    with mapped.few_resident(folder, 1.5 * SIZE / MB):
        assert held(before, first) > 0.9 * SIZE / MB
    (tmp_path / "a").mkdir()
    with mapped.few_resident(tmp_path / "a", 0):
        assert held(before, second) > 1.8 * SIZE / MB


def test_what_was_written_to_stays(weights):
    folder, (first, second) = weights
    before = mapped._resident_files()
    first[7] = 42
    with mapped.few_resident(folder, 0):
        held(before, second)
        held(before, first)
    assert list(first[7:9]) == [42, 8]
