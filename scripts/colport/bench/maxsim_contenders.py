"""What runs in a worker of the MaxSim benchmark: one library's scoring, or its matrix product.

Each is made of a folder with embeddings (:func:`write_inputs`). Before it is timed it is called
twice: the second call gives its scores and the memory it takes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.bench.graph_contenders import Call
from colport.environment import peak_rss_mb
from colport.errors import UnsupportedError

_KINDS = ("queries", "documents")
_BLOCK = 4096  # rows of a plain product that is not page by page

Items = list[np.ndarray]
Score = Callable[[], np.ndarray]


def write_inputs(folder: Path, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]):
    """Store float32 embeddings where every worker can map the same memory."""
    for kind, items in zip(_KINDS, (queries, documents), strict=True):
        np.save(folder / f"{kind}.npy", np.concatenate(items).astype(np.float32))
        np.save(folder / f"{kind}_ends.npy", np.cumsum([len(item) for item in items]))


def read_inputs(folder: Path) -> tuple[Items, Items]:
    """The arrays of :func:`write_inputs`, memory-mapped."""
    found = []
    for kind in _KINDS:
        # Copy on write: PyTorch takes no read-only arrays.
        values = np.load(folder / f"{kind}.npy", mmap_mode="c", allow_pickle=False)
        found.append(
            np.split(
                np.asarray(values), np.load(folder / f"{kind}_ends.npy", allow_pickle=False)[:-1]
            )
        )
    return found[0], found[1]


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


def _colport(queries: Items, documents: Items, threads: int) -> Score:
    from colport.retrieval.maxsim import maxsim

    given = _embedding_set(queries), _embedding_set(documents)
    return lambda: maxsim(*given, threads=threads)


def _colport_int8(queries: Items, documents: Items, threads: int) -> Score:
    from colport.retrieval.approximate import approximate_maxsim

    given = _embedding_set(queries), _embedding_set(documents)
    return lambda: approximate_maxsim(*given, threads=threads)


def _embedding_set(items: Items) -> Any:
    """As the pipeline holds them."""
    from colport.retrieval.store import EmbeddingSet

    ids = tuple(str(index) for index in range(len(items)))
    offsets = np.cumsum([0, *(len(item) for item in items)])
    return EmbeddingSet(ids, np.concatenate(items), offsets)


def _colpali_engine(**settings: Any) -> Callable[[Items, Items, int], Score]:
    def make(queries: Items, documents: Items, threads: int) -> Score:
        from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor

        given = _tensors(queries), _tensors(documents)
        score = BaseVisualRetrieverProcessor.score_multi_vector
        return lambda: score(*given, device="cpu", **settings).numpy()

    return make


def _sentence_transformers(queries: Items, documents: Items, threads: int) -> Score:
    from sentence_transformers.util import maxsim

    given = _tensors(queries), _tensors(documents)
    return lambda: maxsim(*given).numpy()


def _maxsim_cpu(queries: Items, documents: Items, threads: int) -> Score:
    import maxsim_cpu

    score: Any = maxsim_cpu.maxsim_scores_variable
    given: Any = documents
    if len({len(item) for item in documents}) == 1:
        score, given = maxsim_cpu.maxsim_scores, np.stack(documents)
    return lambda: np.stack([score(query, given) for query in queries])


def _numpy(queries: Items, documents: Items, threads: int) -> Score:
    tokens, starts = _stacked(queries)

    def score() -> np.ndarray:
        best = [(document @ tokens.T).max(axis=0) for document in documents]
        return np.add.reduceat(np.stack(best), starts, axis=1).T

    return score


def _torch(queries: Items, documents: Items, threads: int) -> Score:
    import torch

    stacked, starts = _stacked(queries)
    tokens, pages = torch.from_numpy(stacked), _tensors(documents)

    def score() -> np.ndarray:
        best = torch.stack([(page @ tokens.T).amax(dim=0) for page in pages])
        return np.add.reduceat(best.numpy(), starts, axis=1).T

    return score


def _matmul_numpy(queries: Items, documents: Items, threads: int) -> Score:
    columns = np.concatenate(queries).T
    blocks = _row_blocks(documents)
    out = np.empty((_BLOCK, columns.shape[1]), np.float32)

    def multiply() -> np.ndarray:
        for rows in blocks:
            np.matmul(rows, columns, out=out[: len(rows)])
        return out

    return multiply


def _matmul_torch(queries: Items, documents: Items, threads: int) -> Score:
    import torch

    columns = torch.from_numpy(np.concatenate(queries)).T
    blocks = _tensors(_row_blocks(documents))
    out = torch.empty((_BLOCK, columns.shape[1]))

    def multiply() -> np.ndarray:
        for rows in blocks:
            torch.matmul(rows, columns, out=out[: len(rows)])
        return out.numpy()

    return multiply


def _matmul_onnxruntime(queries: Items, documents: Items, threads: int) -> Score:
    """One product in ONNX Runtime's own threads."""
    import onnxruntime

    from colport.retrieval.products import graph_file

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        graph_file("multiply"), options, providers=["CPUExecutionProvider"]
    )
    columns = np.ascontiguousarray(np.concatenate(queries).T)
    blocks = _row_blocks(documents)
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


def _matmul_blocks(queries: Items, documents: Items, threads: int) -> Score:
    """ColPort's products, block by block in its threads, without the maximum."""
    from unittest import mock

    from colport.retrieval import blocks

    def multiply() -> np.ndarray:
        with mock.patch.object(blocks, "segment_maxima", lambda values, starts, out: out.fill(0)):
            return score()

    score = _colport(queries, documents, threads)
    return multiply


def _stacked(queries: Items) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(query) for query in queries])
    return np.concatenate(queries), np.cumsum(lengths) - lengths


def _row_blocks(documents: Items) -> Items:
    tokens = np.concatenate(documents)
    return [tokens[first : first + _BLOCK] for first in range(0, len(tokens), _BLOCK)]


def _tensors(items: Items) -> list[Any]:
    import torch

    return [torch.from_numpy(item) for item in items]


MATMULS = ("matmul numpy", "matmul torch", "matmul onnxruntime", "matmul in blocks")
"""Plain fp32 products of all tokens; the fastest is what scores are compared with."""

CONTENDERS: dict[str, tuple[str, Callable[[Items, Items, int], Score]]] = {
    "colport": ("onnxruntime", _colport),
    "colport int8": ("onnxruntime", _colport_int8),
    "colpali-engine": ("colpali_engine", _colpali_engine()),
    "colpali-engine batch_size=16": ("colpali_engine", _colpali_engine(batch_size=16)),
    "sentence-transformers": ("sentence_transformers", _sentence_transformers),
    "maxsim-cpu": ("maxsim_cpu", _maxsim_cpu),
    "numpy by page": ("numpy", _numpy),
    "torch by page": ("torch", _torch),
    "matmul numpy": ("numpy", _matmul_numpy),
    "matmul torch": ("torch", _matmul_torch),
    "matmul onnxruntime": ("onnxruntime", _matmul_onnxruntime),
    "matmul in blocks": ("onnxruntime", _matmul_blocks),
}
"""Name to the package that must be installed, and what makes its call."""
