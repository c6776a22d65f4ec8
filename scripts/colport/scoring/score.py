"""From embeddings to rankings and metrics, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colport.base.errors import ArtifactError
from colport.base.names import FULL
from colport.scoring.forms import Form, blocks, derive
from colport.scoring.maxsim import DEFAULT_MAX_BYTES, maxsim
from colport.scoring.metrics import METRIC_NAMES, Qrels, evaluate
from colport.scoring.store import EmbeddingSet

HEADLINE = "ndcg_at_5"
OVERLAP = "top10_overlap"
"""Column of the share of PyTorch's ten best documents that are kept."""

EVALUATION_DEPTH = 1000
"""Documents of a ranking that the metrics see, as in TREC runs and mteb."""
RANKING_DEPTH = 10


@dataclass(frozen=True)
class RunScores:
    """What one model, variant and provider reached on one dataset.

    Attributes:
        documents: Documents that were ranked.
        per_query: Metric name to query id to value, for judged queries only.
        rankings: Query id to its ten best document ids, best first.
        bytes_per_document: Mean bytes of a document's embeddings; ``None`` for a baseline.
    """

    documents: int
    per_query: dict[str, dict[str, float]]
    rankings: dict[str, list[str]]
    bytes_per_document: float | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunScores:
        """Read back the run of full embeddings from a retrieval record.

        Raises:
            ArtifactError: The record holds no scores.
        """
        try:
            row = record["rows"][0]
            if row["status"] != "ok":
                raise ArtifactError(f"Retrieval record has status {row['status']!r}, not 'ok'.")
            size = row["bytes_per_document"]
            return cls(row["documents"], record["per_query"], record["rankings"], size)
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(f"Retrieval record has no {error}.") from error


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


def score_forms(
    queries: EmbeddingSet,
    documents: EmbeddingSet | Sequence[EmbeddingSet],
    qrels: Qrels,
    forms: Sequence[Form],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[RunScores, dict[str, RunScores | str]]:
    """Rank all documents for all queries by MaxSim and evaluate the rankings.

    Args:
        queries: Query embeddings.
        documents: Document embeddings, one set or its shards. Each shard is indexed when it is
            scored and let go before the next one, so memory is that of one, of the ids and of the
            best documents.
        qrels: Judgements, query id to document id to an integer; may be empty.
        forms: Further ways to store the documents, scored in the same pass over them.
        max_bytes: Extra memory of the scoring, see :func:`colport.scoring.maxsim.maxsim`.

    Returns:
        The scores of full embeddings; and each form's, or why it has none, by its name.

    Raises:
        ArtifactError: A judged query or document has no embedding, a document id occurs twice, or
            a score is NaN or infinite.
    """
    full = Form(FULL)
    shards = [documents] if isinstance(documents, EmbeddingSet) else documents
    longest = max((int(shard.lengths.max(initial=0)) for shard in shards), default=0)
    limits = {form: form.limit(queries.dim, longest) for form in forms}
    possible = [full, *(form for form in forms if not limits[form])]
    count = _check_ids(queries, shards, qrels)
    best = {form: BestDocuments(len(queries), EVALUATION_DEPTH) for form in possible}
    sizes = dict.fromkeys(possible, 0.0)
    for shard in shards:
        found: dict[Form, list[np.ndarray]] = {form: [] for form in possible}
        for block in blocks(shard):
            for form, stored in derive(block, possible):
                scores = maxsim(queries, stored, max_bytes=max_bytes)
                _check_finite(scores, queries, stored)
                found[form].append(scores)
                sizes[form] += stored.bytes_per_item * len(stored)
        for form, scores in found.items():
            best[form].add(np.hstack(scores), shard.ids)
    runs = {
        form: _run_scores(best[form], queries.ids, qrels, count, sizes[form] / count)
        for form in possible
    }
    return runs[full], {form.name: limits[form] or runs[form] for form in forms}


def rank(
    scores: np.ndarray, query_ids: Sequence[str], document_ids: Sequence[str], qrels: Qrels
) -> RunScores:
    """The run of a score matrix.

    Args:
        scores: ``[n_queries, n_documents]`` float32, higher is better.
        query_ids: One a row.
        document_ids: One a column.
        qrels: Judgements of these queries, query id to document id to an integer; may be empty.
    """
    best = BestDocuments(len(query_ids), EVALUATION_DEPTH)
    best.add(scores, document_ids)
    return _run_scores(best, query_ids, qrels, len(document_ids))


def top_k_overlap(scores_a: np.ndarray, scores_b: np.ndarray, k: int = 10) -> float:
    """Mean share of the best ``k`` documents that two score matrices have in common.

    Args:
        scores_a: ``[n_queries, n_documents]``, higher is better.
        scores_b: The same queries and documents, scored otherwise.
        k: Documents compared; all of them if there are fewer. Equal scores are ordered by column.

    Returns:
        0 (nothing in common) to 1 (the same documents in any order).

    Raises:
        ValueError: The shapes differ or are empty, or ``k`` is not positive.
    """
    if scores_a.shape != scores_b.shape or scores_a.ndim != 2 or not scores_a.size or k < 1:
        raise ValueError(
            f"Scores of shapes {scores_a.shape} and {scores_b.shape} have no top {k} to compare."
        )
    best_a, best_b = (
        np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (scores_a, scores_b)
    )
    shared = [len(np.intersect1d(a, b)) for a, b in zip(best_a, best_b, strict=True)]
    return float(np.mean(shared) / best_a.shape[1])


def _check_ids(queries: EmbeddingSet, shards: Sequence[EmbeddingSet], qrels: Qrels) -> int:
    """Number of documents, once it is clear that everything judged is there."""
    known: set[str] = set()
    count = 0
    for shard in shards:
        known.update(shard.ids)
        count += len(shard)
    if len(known) != count:
        raise ArtifactError("A document id occurs twice in the embeddings.")
    judged = [query for query, judgements in qrels.items() if judgements]
    if missing := sorted(set(judged) - set(queries.ids)):
        raise ArtifactError(f"Judged query {missing[0]!r} has no embeddings.")
    if missing := sorted({name for query in judged for name in qrels[query]} - known):
        raise ArtifactError(f"Judged document {missing[0]!r} has no embeddings.")
    return count


def _check_finite(scores: np.ndarray, queries: EmbeddingSet, documents: EmbeddingSet) -> None:
    if not np.isfinite(scores).all():
        query, document = np.argwhere(~np.isfinite(scores))[0]
        raise ArtifactError(
            f"The score of document {documents.ids[document]!r} for query {queries.ids[query]!r} "
            f"is {scores[query, document]}; embeddings must be finite."
        )


def _run_scores(
    best: BestDocuments,
    query_ids: Sequence[str],
    qrels: Qrels,
    documents: int,
    bytes_per_document: float | None = None,
) -> RunScores:
    found = dict(zip(query_ids, best.rankings(), strict=True))
    run = {query: dict(ranking) for query, ranking in found.items() if qrels.get(query)}
    rankings = {
        query: [name for name, _ in ranking[:RANKING_DEPTH]] for query, ranking in found.items()
    }
    per_query = evaluate(qrels, run) if run else {name: {} for name in METRIC_NAMES}
    return RunScores(documents, per_query, rankings, bytes_per_document)
