"""Fewer token embeddings a document: the mean of tokens that are alike.

Clavié, Chaffin and Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
Performance Impact via Token Pooling", 2024 (arXiv:2409.14683), with the clusters of
colpali-engine's ``HierarchicalTokenPooler``: Ward linkage of the rows of the similarity matrix.
"""

from __future__ import annotations

import numpy as np

_SHORTEST = 1e-12  # length that a mean is divided by at least, as in torch.nn.functional.normalize


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
