"""What runs in a worker of the MaxSim benchmark: one library's scoring, or its matrix product.

Each is made of a folder with embeddings (:func:`write_inputs`). Before it is timed it is called
twice: the second call gives its scores and the memory it takes.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graph_contenders import Call
from colport.base.errors import UnsupportedError
from colport.base.machine import peak_rss_mb
from colport.scoring.embed import DOCUMENTS, QUERIES
from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings

_BLOCK = 4096  # rows of a plain product that is not page by page

Score = Callable[[], np.ndarray]
Make = Callable[[EmbeddingSet, EmbeddingSet, int], Score]


def write_inputs(folder: Path, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]):
    """Store float32 embeddings where every worker can map the same memory."""
    for name, items in ((QUERIES, queries), (DOCUMENTS, documents)):
        ids = [str(index) for index in range(len(items))]
        write_embeddings(folder / name, ids, [item.astype(np.float32) for item in items], {})


def read_inputs(folder: Path) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Queries and documents of a folder, memory-mapped."""
    return read_embeddings(folder / QUERIES), read_embeddings(folder / DOCUMENTS)


def contender(name: str, folder: str, threads: int) -> Call:
    """One of :data:`CONTENDERS` on the embeddings of a folder.

    Raises:
        UnsupportedError: Its library is not installed.
    """
    package, make = CONTENDERS[name]
    if importlib.util.find_spec(package) is None:
        raise UnsupportedError(f"{package.replace('_', '-')} is not installed")
    queries, documents = read_inputs(Path(folder))
    score = make(queries, documents, threads)
    score()
    before = _reset_peak_mb()
    scores = score()
    record = {"extra_mb": peak_rss_mb() - before}
    (Path(folder) / f"{name}.json").write_text(json.dumps(record))
    if name not in MATMULS:
        np.save(Path(folder) / f"{name}.npy", scores)
    return Call(lambda: score()[None])


def _reset_peak_mb() -> float:
    """Forget the peak of this process's memory so far (Linux); returns what it is now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_rss_mb()


def _colport(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
    from colport.scoring.maxsim import maxsim

    given = _in_memory(queries), _in_memory(documents)
    return lambda: maxsim(*given, threads=threads)


def _in_memory(items: EmbeddingSet) -> EmbeddingSet:
    return replace(items, values=np.array(items.values))


def _colpali_engine(**settings: Any) -> Make:
    def make(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
        from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor

        given = _tensors(queries), _tensors(documents)
        score = BaseVisualRetrieverProcessor.score_multi_vector
        return lambda: score(*given, device="cpu", **settings).numpy()

    return make


def _sentence_transformers(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
    from sentence_transformers.util import maxsim

    given = _tensors(queries), _tensors(documents)
    return lambda: maxsim(*given).numpy()


def _maxsim_cpu(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
    import maxsim_cpu

    score: Any = maxsim_cpu.maxsim_scores_variable
    tokens, pages = _plain(queries), _plain(documents)
    given: Any = pages
    if len({len(page) for page in pages}) == 1:
        score, given = maxsim_cpu.maxsim_scores, np.stack(pages)
    return lambda: np.stack([score(query, given) for query in tokens])


def _by_page(library: str) -> Make:
    """A product and its maximum for each page in NumPy or PyTorch."""

    def make(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
        own, arrays = importlib.import_module(library), _ARRAYS[library]
        pages, (tokens,) = arrays(documents), arrays([queries.values])

        def score() -> np.ndarray:
            best = own.stack([own.amax(page @ tokens.T, 0) for page in pages])
            return np.add.reduceat(np.asarray(best), queries.offsets[:-1], axis=1).T

        return score

    return make


def _matmul(library: str) -> Make:
    """Products of many rows in NumPy or PyTorch."""

    def make(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
        own, arrays = importlib.import_module(library), _ARRAYS[library]
        blocks, (tokens,) = arrays(_row_blocks(documents)), arrays([queries.values])
        out = own.empty((_BLOCK, len(tokens)), dtype=own.float32)

        def multiply() -> np.ndarray:
            for rows in blocks:
                own.matmul(rows, tokens.T, out=out[: len(rows)])
            return np.asarray(out)

        return multiply

    return make


def _matmul_onnxruntime(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
    """One product in ONNX Runtime's own threads."""
    import onnxruntime

    from colport.scoring.maxsim.products import graph_file

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        graph_file("multiply"), options, providers=["CPUExecutionProvider"]
    )
    columns, blocks = np.ascontiguousarray(queries.values.T), _plain(_row_blocks(documents))
    out = np.empty((_BLOCK, columns.shape[1]), np.float32)

    def multiply() -> np.ndarray:
        for rows in blocks:
            binding = session.io_binding()
            for name, array in (("rows", rows), ("columns", columns)):
                binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            shape = (len(rows), columns.shape[1])
            binding.bind_output("products", "cpu", 0, np.float32, shape, out.ctypes.data)
            session.run_with_iobinding(binding)
        return out

    return multiply


def _matmul_blocks(queries: EmbeddingSet, documents: EmbeddingSet, threads: int) -> Score:
    """ColPort's products, block by block in its threads, without the maximum."""
    from unittest import mock

    from colport.scoring.maxsim import blocks

    def multiply() -> np.ndarray:
        with mock.patch.object(blocks, "segment_maxima", lambda values, starts, out: out.fill(0)):
            return score()

    score = _colport(queries, documents, threads)
    return multiply


def _row_blocks(documents: EmbeddingSet) -> list[np.ndarray]:
    tokens = documents.values
    return [tokens[first : first + _BLOCK] for first in range(0, len(tokens), _BLOCK)]


def _plain(items: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(item) for item in items]


def _tensors(items: Iterable[np.ndarray]) -> list[Any]:
    """Tensors in the same memory, which nobody writes to."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # mapped arrays are read-only
        return [torch.from_numpy(item) for item in items]


_ARRAYS = {"numpy": _plain, "torch": _tensors}

MATMULS = ("matmul numpy", "matmul torch", "matmul onnxruntime", "matmul in blocks")
"""Plain fp32 products of all tokens; the fastest is what scores are compared with."""

CONTENDERS: dict[str, tuple[str, Make]] = {
    "colport": ("onnxruntime", _colport),
    "colpali-engine": ("colpali_engine", _colpali_engine()),
    "colpali-engine batch_size=16": ("colpali_engine", _colpali_engine(batch_size=16)),
    "sentence-transformers": ("sentence_transformers", _sentence_transformers),
    "maxsim-cpu": ("maxsim_cpu", _maxsim_cpu),
    "numpy by page": ("numpy", _by_page("numpy")),
    "torch by page": ("torch", _by_page("torch")),
    "matmul numpy": ("numpy", _matmul("numpy")),
    "matmul torch": ("torch", _matmul("torch")),
    "matmul onnxruntime": ("onnxruntime", _matmul_onnxruntime),
    "matmul in blocks": ("onnxruntime", _matmul_blocks),
}
"""Name to the package that must be installed, and what makes its call."""
