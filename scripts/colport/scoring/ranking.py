"""The best documents of each query, kept while scores come in shard by shard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BestDocuments:
    """The ranking that trec_eval sees, cut at a depth.

    Memory does not grow with the documents added: only those that are still among the best of
    some query are kept. What is kept is the same however documents are cut into shards.

    Args:
        queries: Number of queries.
        depth: Documents to keep for each.
    """

    def __init__(self, queries: int, depth: int) -> None:
        self._depth = depth
        self._ids: list[str] = []  # descending
        self._places = np.empty((queries, 0), np.int64)  # in the ids
        self._scores = np.empty((queries, 0), np.float32)

    def add(self, scores: np.ndarray, document_ids: Sequence[str]) -> None:
        """Rank further documents.

        Args:
            scores: ``[queries, documents]`` float32, finite, higher is better.
            document_ids: One a column, none added before; equal scores are ordered by descending
                id.
        """
        if self._scores.shape[1] == self._depth:
            # A tie with the last one may still be decided by the id.
            near = np.flatnonzero((scores >= self._scores[:, -1:]).any(axis=0))
            scores, document_ids = scores[:, near], [document_ids[index] for index in near]
        ids = [*self._ids, *document_ids]
        order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
        rank = np.empty(len(ids), np.int64)
        rank[order] = np.arange(len(ids))
        new = np.broadcast_to(rank[len(self._ids) :], scores.shape)
        places = np.hstack([rank[self._places], new])
        scores = np.hstack([self._scores, scores])
        best = np.lexsort((places, -scores))[:, : self._depth]
        self._scores = np.take_along_axis(scores, best, axis=1)
        used, places = np.unique(np.take_along_axis(places, best, axis=1), return_inverse=True)
        self._places = places.reshape(best.shape)
        self._ids = [ids[order[place]] for place in used]

    def rankings(self) -> list[list[tuple[str, float]]]:
        """Ids and scores of each query's best documents, best first."""
        return [
            [(self._ids[place], score) for place, score in zip(row, scores, strict=True)]
            for row, scores in zip(self._places.tolist(), self._scores.tolist(), strict=True)
        ]
