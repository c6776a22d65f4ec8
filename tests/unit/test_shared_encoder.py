"""One encoder, many threads: what each call gives is what it gives alone."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info, threadpool_limits
from tokenizers import Tokenizer

from colport import Encoder
from colport.base.errors import ArtifactError
from colport.families.pages import images
from colport.families.tokens import Tokens
from colport.providers import graph as calls
from tests.conftest import ROOT
from tests.page_models import page

THREADS = 8
TEXTS = [" ".join(f"word{(i * j) % 97} bridge" for j in range(1, 30)) for i in range(1, 5)]
TOKENIZERS = sorted((ROOT / "tests/fixtures").glob("*/tokenizer.json"))


@pytest.mark.parametrize("family", ["colbert", "colpali", "colqwen2"])
def test_threads_get_what_one_gets(exported, family, tmp_path):
    encoder = Encoder(exported[family], threads=1)
    documents = TEXTS
    if encoder.document_type == "pages":
        for number, size in enumerate([(90, 120), (120, 90), (60, 60)]):
            page(*size, seed=number).save(tmp_path / f"{number}.png")
        documents = [Image.open(file) for file in sorted(tmp_path.glob("*.png"))]
    expected = {
        "query": encoder.encode_queries(TEXTS, batch_size=4),
        "document": encoder.encode_documents(list(documents), batch_size=2),
    }
    if encoder.document_type == "pages":  # not read yet, as a server hands them on
        documents = [Image.open(file) for file in sorted(tmp_path.glob("*.png"))]
    start = threading.Barrier(THREADS)

    def call(number):
        start.wait()
        for turn in range(6):
            if (number + turn) % 2:
                kind, found = "query", encoder.encode_queries(TEXTS, batch_size=4)
            else:
                kind, found = "document", encoder.encode_documents(documents, batch_size=2)
            for one, other in zip(found, expected[kind], strict=True):
                np.testing.assert_array_equal(one, other)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, range(THREADS)))


@pytest.mark.parametrize("file", TOKENIZERS, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("split", [False, True])
def test_a_text_is_cut_as_the_tokenizer_cuts_it(file, side, split):
    texts = ["", "One  two, [MASK] Ünïcode <s> the quick brown\nfox [SEP] 1234 bridges"]
    own = Tokenizer.from_file(str(file))
    own.no_padding()
    own.encode_special_tokens = split
    tokens = Tokens(file, 0, "right", side, split)
    for limit in (2, 3, 7, 300):
        own.enable_truncation(limit, direction=side)
        assert tokens.encode(texts, limit) == [row.ids for row in own.encode_batch(texts)]
    own.no_truncation()
    assert tokens.encode(texts) == [row.ids for row in own.encode_batch(texts)]


def test_a_tokenizer_is_not_changed_by_its_calls():
    tokens = Tokens(TOKENIZERS[0], 0, "right")
    limits = {limit: tokens.encode(TEXTS, limit) for limit in (5, 9, 40, None)}
    assert tokens._tokenizer.truncation is None
    start = threading.Barrier(THREADS)

    def call(number):
        start.wait()
        for turn in range(100):
            limit = list(limits)[(number + turn) % len(limits)]
            assert tokens.encode(TEXTS, limit) == limits[limit]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, range(THREADS)))


class Session:
    """A graph that says when two calls of it overlap."""

    def __init__(self):
        self.running, self.most = 0, 0
        self.both = threading.Barrier(2)

    def get_inputs(self):
        return [SimpleNamespace(name="x", shape=["batch", "tokens"])]

    def get_outputs(self):
        return [SimpleNamespace(name="y")]

    def run(self, _, feeds):
        self.running += 1
        self.most = max(self.most, self.running)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.both.wait(0.3)
        self.running -= 1
        return [feeds["x"]]


@pytest.mark.parametrize(
    ("cuda_graph", "is_concurrent", "most"), [(False, True, 2), (True, True, 1), (False, False, 1)]
)
def test_calls_take_turns_where_the_provider_needs_it(cuda_graph, is_concurrent, most):
    session = Session()
    provider = SimpleNamespace(memory="cpu", is_concurrent=is_concurrent)
    settings = SimpleNamespace(
        provider=provider, options={}, fixed_shapes={}, io_binding=False, cuda_graph=cuda_graph
    )
    graph = calls.Graph(session, settings)
    with ThreadPoolExecutor(2) as pool:
        feeds = [{"x": np.full((1, 2), value)} for value in (1, 2)]
        found = list(pool.map(graph.run, feeds))
    assert [row[0, 0] for row in found] == [1, 2]
    assert session.most == most


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_threads_that_share_numpy_leave_its_setting_as_it_was():
    with threadpool_limits(3, user_api="blas"):
        if blas_threads() != {3}:
            pytest.skip("this NumPy's library has no threads")
    before = blas_threads()
    inside = threading.Barrier(THREADS)

    def work(_):
        with images.one_thread():
            inside.wait()
        inside.wait()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert blas_threads() == before


def test_a_pipe_is_one_thread_s_at_a_time(tmp_path: Path):
    from colport.data.pdfs import PdfReader
    from tests.pdfs import pdf

    pytest.importorskip("pypdfium2")
    reader = PdfReader()
    files = [tmp_path / f"{name}.pdf" for name in ("one", "two")]
    for file in files:
        file.write_bytes(pdf([file.stem] * 3))
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda n: reader.text(files[n % 2], n % 3), range(48)))
    assert found == [files[n % 2].stem for n in range(48)]


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_a_side_that_is_none_is_refused(name):
    sides = {"padding_side": "right", "truncation_side": "right", name: "middle"}
    with pytest.raises(ArtifactError, match=f"{name} is 'middle'; allowed are left and right"):
        Tokens(TOKENIZERS[0], 0, **sides)


def test_a_length_must_hold_the_special_tokens():
    tokens = Tokens(ROOT / "tests/fixtures/pylate-1.1-bert/tokenizer.json", 0, "right")
    assert [len(ids) for ids in tokens.encode(["some words"], 2)] == [2]
    with pytest.raises(ArtifactError, match="max_length is 1, less than the 2 special tokens"):
        tokens.encode(["some words"], 1)


def test_what_a_folder_cannot_do_is_told_with_its_name(exported, monkeypatch):
    encoder = Encoder(exported["colbert"])
    batch = encoder.prepare_queries(["a query"])
    with pytest.raises(ArtifactError, match=r"colport\.json: has no image graph"):
        encoder.run(replace(batch, graph="image"))
    with pytest.raises(ArtifactError, match="the text graph cannot be run"):
        encoder.run(replace(batch, feeds={}))
    for fault, reason in ((MemoryError(), "out of memory"), (KeyError("width"), "width")):
        monkeypatch.setattr(encoder._runtime, "query_batch", Mock(side_effect=fault))
        with pytest.raises(ArtifactError, match=f"inputs cannot be prepared .*{reason}"):
            encoder.encode_queries(["a query"])
    monkeypatch.undo()
    monkeypatch.setattr(encoder, "_run", lambda *_: np.zeros((1, 2, 3), np.float32))
    with pytest.raises(ArtifactError, match=r"gives \[1, 2, 3\], expected an embedding for each"):
        encoder.encode_queries(["a query of some words"])
