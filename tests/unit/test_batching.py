"""Batches by length, the split of the cores, and results in the given order."""

from __future__ import annotations

import gc
import math
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from colport import Encoder
from colport.base import machine
from colport.base.errors import ArtifactError, InputError
from colport.providers import ProviderSettings
from colport.runtime import batching
from colport.runtime import encoder as runtime

LARGE = 10**8
CPU = ProviderSettings.of("cpu")
TEXTS = [f"{'word ' * (number * 7 % 40 + 1)}number {number}" for number in range(30)]


def test_batches_hold_inputs_of_like_lengths_the_longest_first():
    lengths = [3, 9, 4, 8, 1, 2]
    assert batching.by_length(lengths, math.inf, 16) == [[1], [2, 3], [0, 4, 5]]
    assert batching.by_length(lengths, 2, math.inf) == [[1, 3], [0, 2], [4, 5]]
    assert batching.by_length(lengths, 2, 16) == [[1], [2, 3], [0, 5], [4]]
    assert batching.by_length([20, 30], math.inf, 16) == [[1], [0]]  # longer than a batch
    assert batching.by_length([5, 5, 5], math.inf, 10) == [[0, 1], [2]]  # as given where equal
    assert batching.by_length([], 8, 16) == []


def test_few_inputs_occupy_every_worker_and_many_stay_in_the_caches():
    assert batching.budget([100] * 100, CPU, 2, LARGE) == 512
    assert batching.budget([100, 100, 101], CPU, 2, LARGE) == 151
    assert batching.budget([10, 10], CPU, 2, LARGE) == 128
    assert batching.budget([10, 10], ProviderSettings.of("cuda"), 2, LARGE) == 8192


def test_a_small_graph_has_batches_that_are_worth_a_thread():
    assert batching.budget([100] * 100, CPU, 2, 1_000_000) == 3000
    assert batching.budget([100] * 100, CPU, 2, 20_000_000) == 512
    assert batching.budget([10, 10], CPU, 2, 0) == 3 * 10**9
    assert batching.budget([10], ProviderSettings.of("cuda"), 2, 1_000) == 8192


@pytest.mark.parametrize(
    ("batches", "beside", "alone"),
    [(1, 2, 1), (2, 2, 0), (3, 2, 1), (5, 1, 5), (9, 8, 1), (12, 8, 4), (13, 8, 0), (0, 4, 0)],
)
def test_batches_that_would_leave_cores_idle_run_on_all_threads(batches, beside, alone):
    assert batching.last_alone(batches, beside) == alone


def test_the_split_fits_cores_threads_and_memory(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(batching, "usable_cores", lambda: 6)
    monkeypatch.setattr(batching, "available_mb", lambda: 1000.0)
    assert batching.workers(CPU, None, None, 250) == (6, 1)
    assert batching.workers(CPU, None, None, 251) == (1, None)  # a second copy is too large
    assert batching.workers(CPU, 4, None, 0) == (4, 1)
    assert batching.workers(CPU, 1, None, 0) == (1, None)
    assert batching.workers(CPU, None, 2, 9000) == (2, 3)  # as the caller asks
    assert batching.workers(CPU, 2, 4, 0) == (4, 1)
    own = ProviderSettings.from_config("p", {"type": "cpu", "threads": 3})
    assert batching.workers(own, None, None, 0) == (3, 1)
    monkeypatch.setattr(batching, "usable_cores", lambda: 64)
    assert batching.workers(CPU, None, None, 0) == (16, 4)
    monkeypatch.setattr(batching, "usable_cores", lambda: 1)
    assert batching.workers(CPU, None, None, 0) == (1, None)
    assert batching.workers(ProviderSettings.of("cuda"), None, None, 0) == (2, None)
    monkeypatch.setattr(batching, "usable_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert batching.workers(CPU, None, None, 0) == (2, 1)  # of a job beside others
    assert batching.workers(CPU, 4, None, 0) == (4, 1)
    assert batching.workers(own, None, None, 0) == (3, 1)


@pytest.mark.parametrize(
    ("given", "threads"),
    [(None, None), ("", None), ("3", 3), (" 4,2 ", 4), ("0", None), ("-1", None), ("many", None)],
)
def test_a_job_s_threads_are_read_as_openmp_reads_them(given, threads, monkeypatch):
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert machine.asked_threads() == threads


@pytest.mark.parametrize("family", ["colbert", "colpali", "colqwen2"])
def test_any_split_gives_the_embeddings_of_single_inputs_in_the_given_order(exported, family):
    pages = [
        Image.new("RGB", (40 + 30 * (n * 5 % 7), 60 + 20 * (n * 3 % 5)), (9 * n, 99, 5))
        for n in range(7)
    ]
    split, whole = Encoder(exported[family], workers=3), Encoder(exported[family], workers=1)
    texts = TEXTS[:12]
    for name, items in (
        ("encode_queries", texts),
        ("encode_documents", texts if family == "colbert" else pages),
    ):
        expected = [getattr(whole, name)([item])[0] for item in items]
        for given in (
            {},
            {"batch_size": 1},
            {"batch_size": 4},
            {"batch_tokens": 3000},
            {"batch_size": 3, "batch_tokens": 3000},
        ):
            found = getattr(split, name)(iter(items), **given)
            assert len(found) == len(items)
            for one, other in zip(expected, found, strict=True):
                np.testing.assert_allclose(one, other, atol=2e-5)


def test_one_batch_opens_no_second_session_and_more_open_one(exported):
    encoder = Encoder(exported["colbert"], workers=2)
    encoder.encode_documents(TEXTS[:2], batch_size=2)
    assert encoder._beside == {}
    encoder.encode_documents(TEXTS[:4], batch_size=2)
    assert encoder._beside.keys() == encoder._graphs.keys()
    assert not any(encoder._beside[name] is graph for name, graph in encoder._graphs.items())


def test_progress_counts_inputs_over_windows(exported, monkeypatch):
    monkeypatch.setattr(runtime, "_WINDOW", {"passages": 8, "pages": 8})
    counts = []
    found = Encoder(exported["colbert"], workers=2).encode_documents(
        TEXTS, batch_size=3, progress=counts.append
    )
    assert counts == [3, 6, 8, 11, 14, 16, 19, 22, 24, 27, 30]
    assert len(found) == len(TEXTS)


def test_an_iterable_is_read_as_far_as_its_window_and_its_error_is_given(exported, monkeypatch):
    monkeypatch.setattr(runtime, "_WINDOW", {"passages": 4, "pages": 4})
    read, counts = [], []

    def texts():
        for text in TEXTS[:9]:
            read.append(text)
            yield text
        raise KeyError("a row is damaged")

    encoder = Encoder(exported["colbert"], workers=1)
    with pytest.raises(KeyError, match="a row is damaged"):
        encoder.encode_documents(
            texts(), batch_size=4, progress=lambda done: counts.append((done, len(read)))
        )
    assert counts == [(4, 4), (8, 8)]


def test_of_several_inputs_that_are_refused_the_first_one_is_named(exported):
    encoder = Encoder(exported["colqwen2"], workers=2)
    right, long = Image.new("RGB", (56, 56)), Image.new("RGB", (3000, 10))
    for first in (0, 3, 5):
        pages = [right] * 6
        pages[first] = pages[5] = long
        with pytest.raises(InputError, match=rf"documents\[{first}\]: is a page of 3000x10"):
            encoder.encode_documents(pages, batch_size=1)
    with pytest.raises(TypeError, match=r"documents\[2\]: found str; allowed is a Pillow image"):
        encoder.encode_documents(iter([right, long, "a page"]), batch_size=1)


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
@pytest.mark.parametrize("workers", [1, 2])
def test_pages_of_a_batch_are_prepared_in_threads(exported, family, workers, monkeypatch):
    encoder = Encoder(exported[family], workers=workers)
    pages = [Image.new("RGB", (40 + 30 * n, 60), (40 * n, 99, 5)) for n in range(4)]
    expected = encoder._runtime.document_batch(pages)
    threads, page = set(), encoder._runtime.page

    def prepare(one):
        threads.add(threading.current_thread())
        return page(one)

    monkeypatch.setattr(encoder._runtime, "page", prepare)
    found = encoder.prepare_documents(pages)
    assert (threading.current_thread() in threads) == (workers == 1)
    assert found.feeds.keys() == expected.feeds.keys()
    for name, values in expected.feeds.items():
        np.testing.assert_array_equal(found.feeds[name], values)

    damaged = Image.new("F", (60, 60))
    for wrong in ("prepare_documents", "encode_documents"):
        with pytest.raises(InputError, match=r"documents\[2\]: is an image of mode F"):
            getattr(encoder, wrong)([*pages[:2], damaged, damaged])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_page_of_a_refused_shape_is_named_by_its_place_in_a_batch(exported, workers):
    encoder = Encoder(exported["colqwen2"], workers=workers)
    pages = [Image.new("RGB", (56, 56))] * 2 + [Image.new("RGB", (3000, 10))] * 2
    with pytest.raises(InputError, match=r"documents\[2\]: is a page of 3000x10"):
        encoder.prepare_documents(pages)
    with pytest.raises(InputError, match=r"documents\[2\]: is a page of 3000x10"):
        encoder._runtime.document_batch(pages)


def test_a_budget_that_an_input_does_not_fit_is_named(exported):
    encoder = Encoder(exported["colbert"])
    texts = ["a", "word " * 30, "b"]
    with pytest.raises(ValueError, match=r"batch_tokens: found 9; documents\[1\] alone has \d\d"):
        encoder.encode_documents(iter(texts), batch_tokens=9)
    for wrong, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="batch_tokens: found"):
            encoder.encode_documents(texts, batch_tokens=wrong)
        with pytest.raises(error, match="workers: found"):
            Encoder(exported["colbert"], workers=wrong)
    with pytest.raises(TypeError, match="progress: found str; allowed is a function"):
        encoder.encode_documents(texts, progress="bar")


def test_batches_run_in_the_threads_of_their_workers_and_a_failing_graph_ends_the_call(
    exported, monkeypatch
):
    encoder, threads = Encoder(exported["colbert"], workers=2), set()
    encoder.encode_documents(TEXTS[:2], batch_size=1)

    def fail(feeds):
        threads.add(threading.current_thread())
        raise RuntimeError("no memory")

    monkeypatch.setattr(encoder._beside["text"], "run", fail)
    with pytest.raises(ArtifactError, match=r"the text graph cannot be run \(.*no memory"):
        encoder.encode_documents(TEXTS[:8], batch_size=1)
    assert threading.main_thread() not in threads
    assert encoder.encode_documents(TEXTS[:1])[0].shape[1] == encoder.dim


@pytest.mark.parametrize("family", ["colbert", "colpali", "colqwen2"])
def test_lengths_are_those_of_the_prepared_batch(exported, family):
    encoder = Encoder(exported[family])
    for text in ("", "one", TEXTS[5]):
        (length,) = encoder._runtime.lengths("query", [text])
        assert length == encoder.prepare_queries([text]).keep.shape[1]
    if family == "colbert":
        (length,) = encoder._runtime.lengths("document", [TEXTS[5]])
        assert length == encoder.prepare_documents([TEXTS[5]]).keep.shape[1]
    else:
        page = Image.new("RGB", (300, 200))
        (length,) = encoder._runtime.lengths("document", [page])
        rows, columns = (g := encoder._runtime.patches(page)).rows, g.columns
        assert rows * columns <= length <= encoder.prepare_documents([page]).keep.shape[1]


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, [2]),
        ("0::/a", {"a/cpu.max": "20000 100000", "cpu.max": "400000 100000"}, [1, 4]),
        ("3:cpu,cpuacct:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "9"}, []),
        (
            "3:cpuacct,cpu:/x",
            {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
            [3],
        ),
        ("2:memory:/x", {"cpu/x/cpu.cfs_quota_us": "1", "cpu.max": "1 1"}, []),
    ],
)
def test_a_control_group_limits_the_cores(line, files, cores, tmp_path, monkeypatch):
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{line}\n")
    assert machine._cores_of_groups(tmp_path / "cgroup", tmp_path / "own") == cores
    assert machine._cores_of_groups(tmp_path / "cgroup", tmp_path / "absent") == []
    monkeypatch.setattr(machine, "_cores_of_groups", lambda: [7, 3])
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(5), raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.setattr(machine, "_cores_of_groups", lambda: [7])
    assert machine.usable_cores() == 5


def test_an_encoder_is_freed_as_soon_as_nobody_holds_it(exported):
    """Its sessions hold the weights."""
    encoder = Encoder(exported["colbert"], workers=2)
    encoder.encode_documents(TEXTS[:2], batch_size=1)
    gone = weakref.ref(encoder)
    gc.disable()
    try:
        del encoder
        assert gone() is None
    finally:
        gc.enable()
