"""Exact MaxSim between ragged sets of token embeddings, in bounded memory.

The score of a document for a query is the sum over the query's tokens of the largest dot product
with any token of the document (Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3). Documents
are never padded: a zero vector would lift every negative maximum to zero.

A block of documents is multiplied by a block of queries, and the products are reduced while they
are still in the processor's cache. Each thread takes the next block of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from colport.scoring.maxsim import blocks
from colport.scoring.maxsim.tiling import Tiling, Workspace, run

DEFAULT_MAX_BYTES = 16 * 2**20
"""Extra memory of :func:`maxsim`; similarities of this size still fit a processor's L3 cache."""

_ALONE = 256  # mean tokens of the documents of a block
_ONE = np.zeros(1, np.int64)  # where a single document starts


def maxsim(
    queries: Sequence[np.ndarray],
    documents: Sequence[np.ndarray],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    threads: int | None = None,
    device: str | None = None,
) -> np.ndarray:
    """Score every document for every query, exactly.

    Args:
        queries: One ``[tokens, dim]`` array of floats a query; a query may have no tokens and then
            scores 0 everywhere. A sequence with ``offsets`` (an ``EmbeddingSet``) is read in
            slices, without a copy if it is float32.
        documents: The same for documents, each with at least one token.
        max_bytes: Limit of the memory used beside the inputs and the result. It cannot go below
            what the longest query needs against one document token.
        threads: Threads, at most one for each MiB of ``max_bytes``; as many as the processor cores
            that this process may use when ``None``.
        device: A device of PyTorch; ``None`` means ``cuda`` if this process has imported PyTorch
            and that sees a GPU, otherwise ONNX Runtime on the CPU. ``cpu`` is PyTorch's.

    Returns:
        ``[n_queries, n_documents]`` float32. Products and sums are computed in float32 whatever
        the type of the embeddings.

    Raises:
        ValueError: A document has no tokens, an array is not two-dimensional, dimensions differ,
            or ``max_bytes`` is not positive.
    """
    device = device or blocks.default_device()
    columns = blocks.FloatColumns if device is None else partial(blocks.TorchColumns, device=device)
    tiling = Tiling.of(queries, documents, max_bytes, threads if device is None else 1)
    scores = np.zeros((len(tiling.query_lengths), len(tiling.document_lengths)), dtype=np.float32)
    for group in tiling.query_groups:
        query_blocks = tiling.query_blocks(columns, queries, np.arange(*group))
        score = partial(_score_documents, query_blocks, documents, tiling, scores)
        run(score, tiling.documents, tiling)
    return scores


def _score_documents(
    query_blocks: Sequence[blocks.QueryBlock],
    documents: Sequence[np.ndarray],
    tiling: Tiling,
    scores: np.ndarray,
    first: int,
    last: int,
    workspace: Workspace,
) -> None:
    """Fill in the scores of documents ``first`` up to ``last``, which the workspace holds."""
    lengths = tiling.document_lengths[first:last]
    rows, most = int(lengths.sum()), tiling.lines - 1
    if last - first > 1 and not hasattr(documents, "offsets") and rows >= _ALONE * len(lengths):
        # More products cost less than a copy of long arrays into one.
        parts = [(first + index, first + index + 1, 0, end) for index, end in enumerate(lengths)]
    else:
        parts = [(first, last, begin, min(begin + most, rows)) for begin in range(0, rows, most)]

    def tokens(part: tuple[int, int, int, int]) -> np.ndarray:
        return blocks.as_float32(blocks.read(documents, *part), workspace.rows)

    whole = tokens(parts[0]) if len(parts) == 1 else None
    starts = blocks.starts_of(lengths) if len(parts) == 1 else _ONE
    for block in query_blocks:
        if whole is not None:
            best = block.columns.best(whole, starts, workspace.products)
        else:
            found = [
                block.columns.best(tokens(part), starts, workspace.products).copy()
                for part in parts
            ]
            best = np.concatenate(found)
            if last - first == 1:  # a document longer than a block
                best = best.max(axis=0, keepdims=True)
        scores[block.queries, first:last] = block.sums(best)
