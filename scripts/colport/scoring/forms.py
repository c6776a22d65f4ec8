"""Smaller forms of stored embeddings: fewer tokens a document, fewer bytes a token.

Fewer tokens are means of those that are alike: Clavié, Chaffin and Adams, "Reducing the Footprint
of Multi-Vector Retrieval with Minimal Performance Impact via Token Pooling", 2024
(arXiv:2409.14683), with the clusters of colpali-engine's ``HierarchicalTokenPooler``: Ward linkage
of the rows of the similarity matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from colport.base.declared import IN_CODE, Allowed, Count
from colport.scoring.maxsim.tiling import runs
from colport.scoring.quantized import PRECISIONS
from colport.scoring.store import EmbeddingSet

_BLOCK_TOKENS = 1 << 17  # what deriving a form takes beside the shard stays within some 200 MB

_SHORTEST = 1e-12  # length that a mean is divided by at least, as in torch.nn.functional.normalize


@dataclass(frozen=True)
class Form:
    """How a corpus is stored; queries stay as they are."""

    name: Annotated[str, IN_CODE]
    """Its name in the configuration."""

    pooling: Count = 1
    """Factor by which a document has fewer tokens; similar ones are averaged (hierarchical token
    pooling)."""

    storage: Annotated[str | None, Allowed(enum=PRECISIONS)] = None
    """``int8`` with a scale a token, ``binary`` with a bit a value (dimensions in multiples of 8).
    By default as the model gives them."""

    def limit(self, dim: int, longest: int) -> str:
        """Why embeddings of this dimension cannot be stored so, or an empty text.

        Args:
            dim: Size of a vector.
            longest: Vectors of a document at most.
        """
        if self.pooling > 1 and longest == 1:
            return "Every document has one vector; pooling merges several."
        if self.storage == "binary" and dim % 8:
            return f"Embeddings have {dim} dimensions; binary storage needs a multiple of 8."
        return ""


def blocks(documents: EmbeddingSet) -> Iterator[EmbeddingSet]:
    """Consecutive parts of some 130 thousand tokens, as views."""
    for first, last in runs(documents.lengths, _BLOCK_TOKENS):
        begin, end = documents.offsets[first], documents.offsets[last]
        scales = documents.scales
        yield replace(
            documents,
            ids=documents.ids[first:last],
            values=documents.values[begin:end],
            offsets=documents.offsets[first : last + 1] - begin,
            scales=None if scales is None else scales[begin:end],
        )


def derive(documents: EmbeddingSet, forms: Sequence[Form]) -> Iterator[tuple[Form, EmbeddingSet]]:
    """Store documents in each form; those that are pooled alike are pooled once."""
    pooled: dict[int, EmbeddingSet] = {1: documents}
    for form in forms:
        if form.pooling not in pooled:
            items = [pool_tokens(tokens, form.pooling) for tokens in documents]
            pooled[form.pooling] = EmbeddingSet.from_arrays(documents.ids, items)
        stored = pooled[form.pooling]
        yield form, stored.stored_as(form.storage or stored.precision)


def pool_tokens(tokens: np.ndarray, factor: int) -> np.ndarray:
    """Cluster the tokens of one document and average each cluster.

    Args:
        tokens: ``[tokens, dim]`` floats. One token, or none, is returned as it is.
        factor: How many times fewer tokens; 1 returns them as they are.

    Returns:
        ``[max(tokens // factor, 1), dim]`` of the same type, or fewer where tokens are equal;
        each of length 1.

    Raises:
        ValueError: ``tokens`` is not two-dimensional, or ``factor`` is below 1.
    """
    if tokens.ndim != 2:
        raise ValueError(f"Embeddings have shape {tokens.shape}; allowed is (tokens, dimension).")
    if factor < 1:
        raise ValueError(f"factor is {factor}; it must be 1 or more.")
    if factor == 1 or len(tokens) < 2:
        return tokens
    from scipy.cluster.hierarchy import fcluster, linkage

    values = tokens.astype(np.float64)
    # Rows of S = E Eᵀ are as far apart as rows of E F with F Fᵀ = Eᵀ E, which are shorter.
    spread, axes = np.linalg.eigh(values.T @ values)
    points = values @ (axes * np.sqrt(np.maximum(spread, 0)))
    tree = linkage(points, method="ward")
    labels = fcluster(tree, t=max(len(tokens) // factor, 1), criterion="maxclust")
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    means = np.add.reduceat(values[order], starts, axis=0) / counts[:, None]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return (means / np.maximum(lengths, _SHORTEST)).astype(tokens.dtype)
