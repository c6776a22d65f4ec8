"""Exact MaxSim between ragged sets of token embeddings, in bounded memory.

The score of a document for a query is the sum over the query's tokens of the largest dot product
with any token of the document (Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3). Documents
are never padded: a zero vector would lift every negative maximum to zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

DEFAULT_MAX_BYTES = 16 * 2**20
"""Extra memory of :func:`maxsim`; similarities of this size still fit a processor's L3 cache."""

_FLOAT = 4
_QUERY_SHARE = 8


def maxsim(
    queries: Sequence[np.ndarray],
    documents: Sequence[np.ndarray],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> np.ndarray:
    """Score every document for every query, exactly.

    Args:
        queries: One ``[tokens, dim]`` array of floats a query; a query may have no tokens and then
            scores 0 everywhere. A sequence with ``values`` and ``offsets`` (an ``EmbeddingSet``) is
            read in slices, without a copy if it is float32.
        documents: The same for documents, each with at least one token.
        max_bytes: Limit of the memory used beside the inputs and the result. It cannot go below
            what the longest query needs against one document token.

    Returns:
        ``[n_queries, n_documents]`` float32. Products and sums are computed in float32 whatever
        the type of the embeddings.

    Raises:
        ValueError: A document has no tokens, an array is not two-dimensional, dimensions differ,
            or ``max_bytes`` is not positive.
    """
    if max_bytes <= 0:
        raise ValueError(f"max_bytes is {max_bytes}; it must be positive.")
    query_lengths, query_dim = _lengths(queries, "query")
    document_lengths, document_dim = _lengths(documents, "document")
    scores = np.zeros((len(query_lengths), len(document_lengths)), dtype=np.float32)
    if not scores.size:
        return scores
    if query_dim != document_dim:
        raise ValueError(f"Queries have {query_dim} dimensions and documents {document_dim}.")
    if not document_lengths.all():
        raise ValueError(f"Document {int(np.argmin(document_lengths))} has no tokens.")

    query_bytes = query_lengths * (_FLOAT * query_dim)
    query_blocks = list(_blocks(query_bytes, max_bytes // _QUERY_SHARE))
    widest = max(int(query_lengths[first:last].sum()) for first, last in query_blocks)
    most = max(last - first for first, last in query_blocks)
    # A line is a document token (its similarities and its float32 copy) or a document (its best
    # matches and its scores).
    line_bytes = _FLOAT * (widest + document_dim + most)
    lines = max(3, (max_bytes - _FLOAT * widest * query_dim) // line_bytes)
    document_lines = document_lengths + 1
    workspace = np.empty(widest * min(lines, int(document_lines.sum()) + 1), dtype=np.float32)

    for first, last in _blocks(document_lines, lines):
        block = _stack(documents, first, last)
        starts = _starts(document_lengths[first:last])
        if len(block) + len(starts) <= lines:
            block = np.asarray(block, dtype=np.float32)
        for query_first, query_last in query_blocks:
            lengths = query_lengths[query_first:query_last]
            filled = np.flatnonzero(lengths)
            if len(filled):
                tokens = _stack(queries, query_first, query_last)
                best = _best_matches(tokens, block, starts, lines, workspace)
                sums = np.add.reduceat(best, _starts(lengths)[filled], axis=0)
                scores[query_first + filled, first:last] = sums
                del tokens, best, sums
        # Freed before the next block is read, or both would count.
        del block
    return scores


def _best_matches(
    tokens: np.ndarray, block: np.ndarray, starts: np.ndarray, lines: int, workspace: np.ndarray
) -> np.ndarray:
    """Largest similarity of each query token to each document of a block.

    Returns:
        ``[query_tokens, documents]`` float32, in the workspace if the block fits. Similarities are
        laid out with document tokens along the contiguous axis, where ``reduceat`` is vectorised.
    """
    tokens = np.asarray(tokens, dtype=np.float32)
    if len(block) + len(starts) <= lines:
        cut, end = len(tokens) * len(block), len(tokens) * (len(block) + len(starts))
        similarities = workspace[:cut].reshape(len(tokens), len(block))
        best = workspace[cut:end].reshape(len(tokens), len(starts))
        np.matmul(tokens, np.asarray(block, dtype=np.float32).T, out=similarities)
        return np.maximum.reduceat(similarities, starts, axis=1, out=best)
    # Only a single document can be longer than a block.
    best = np.full((len(tokens), 1), -np.inf, dtype=np.float32)
    for first in range(0, len(block), lines - 2):
        part = block[first : first + lines - 2]
        np.maximum(best, _best_matches(tokens, part, starts, lines, workspace), out=best)
    return best


def _lengths(embeddings: Sequence[np.ndarray], kind: str) -> tuple[np.ndarray, int]:
    """Tokens of each item and the dimension they share (0 if there are no items)."""
    if hasattr(embeddings, "offsets"):
        return np.diff(embeddings.offsets), embeddings.values.shape[1]
    shapes = [np.shape(item) for item in embeddings]
    for index, shape in enumerate(shapes):
        if len(shape) != 2 or shape[1] != shapes[0][1]:
            raise ValueError(
                f"Embeddings of {kind} {index} have shape {shape}; "
                f"allowed is (tokens, dimension) with the dimension of {kind} 0."
            )
    lengths = np.array([shape[0] for shape in shapes], dtype=np.int64)
    return lengths, shapes[0][1] if shapes else 0


def _stack(embeddings: Sequence[np.ndarray], first: int, last: int) -> np.ndarray:
    """Token embeddings of items ``first`` up to ``last``, one below the other."""
    if hasattr(embeddings, "offsets"):
        return embeddings.values[embeddings.offsets[first] : embeddings.offsets[last]]
    if last - first == 1:
        return np.asarray(embeddings[first])
    return np.concatenate(embeddings[first:last], dtype=np.float32)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """First row of each item in their stack."""
    return np.cumsum(lengths) - lengths


def _blocks(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut items into consecutive runs of at most ``limit`` bytes; a larger item is a run alone."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(ends):
        limit_end = limit + (ends[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(ends, limit_end, side="right")))
        yield first, last
        first = last
