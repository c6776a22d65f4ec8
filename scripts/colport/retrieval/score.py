"""From embeddings to rankings, metrics and the record of one retrieval job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colport import environment
from colport.errors import ArtifactError
from colport.retrieval.maxsim import DEFAULT_MAX_BYTES, maxsim
from colport.retrieval.metrics import METRIC_NAMES, Qrels, evaluate, rank_documents
from colport.retrieval.statistics import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    bootstrap_interval,
    paired_randomisation,
)
from colport.retrieval.store import EmbeddingSet

COLUMNS = (
    "model",
    "variant",
    "provider",
    "dataset",
    "queries",
    "documents",
    "ndcg_at_1",
    "ndcg_at_5",
    "ndcg_at_10",
    "recall_at_1",
    "recall_at_5",
    "recall_at_10",
    "mrr_at_10",
    "map",
    "ndcg_at_5_low",
    "ndcg_at_5_high",
    "ndcg_at_5_delta",
    "p_value",
    "status",
    "reason",
)
"""Columns of ``retrieval.csv``, in order; :data:`OVERLAP` follows them."""

OVERLAP = "top10_overlap"
NO_JUDGEMENTS = "no judgements"
"""Reason of a row that is ``ok`` and has rankings, but nothing to compute metrics from."""

HEADLINE = "ndcg_at_5"
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
    """

    documents: int
    per_query: dict[str, dict[str, float]]
    rankings: dict[str, list[str]]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RunScores:
        """Read back the run that :func:`retrieval_record` stored.

        Raises:
            ArtifactError: The record holds no scores.
        """
        try:
            row = record["rows"][0]
            if row["status"] != "ok":
                raise ArtifactError(f"Retrieval record has status {row['status']!r}, not 'ok'.")
            return cls(row["documents"], record["per_query"], record["rankings"])
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(f"Retrieval record has no {error}.") from error


def score_run(
    queries: EmbeddingSet,
    documents: EmbeddingSet | Sequence[EmbeddingSet],
    qrels: Qrels,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> RunScores:
    """Rank all documents for all queries by MaxSim and evaluate the rankings.

    Args:
        queries: Query embeddings.
        documents: Document embeddings, one set or its shards; only one shard's pages of a block are
            in memory at a time if they are memory-mapped.
        qrels: Judgements, query id to document id to an integer; may be empty.
        max_bytes: Extra memory of the scoring, see :func:`colport.retrieval.maxsim.maxsim`.

    Raises:
        ArtifactError: A judged query or document has no embedding, a document id occurs twice, or
            a score is NaN or infinite.
    """
    shards = [documents] if isinstance(documents, EmbeddingSet) else list(documents)
    document_ids = [name for shard in shards for name in shard.ids]
    known = set(document_ids)
    if len(known) != len(document_ids):
        raise ArtifactError("A document id occurs twice in the embeddings.")
    judged = [query for query, judgements in qrels.items() if judgements]
    if missing := sorted(set(judged) - set(queries.ids)):
        raise ArtifactError(f"Judged query {missing[0]!r} has no embeddings.")
    if missing := sorted({name for query in judged for name in qrels[query]} - known):
        raise ArtifactError(f"Judged document {missing[0]!r} has no embeddings.")

    scores = np.hstack([maxsim(queries, shard, max_bytes=max_bytes) for shard in shards])
    if not np.isfinite(scores).all():
        query, document = np.argwhere(~np.isfinite(scores))[0]
        raise ArtifactError(
            f"The score of document {document_ids[document]!r} for query {queries.ids[query]!r} is "
            f"{scores[query, document]}; embeddings must be finite."
        )
    return rank(scores, queries.ids, document_ids, qrels)


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
    order = rank_documents(scores, document_ids, EVALUATION_DEPTH)
    run, rankings = {}, {}
    for query, best, row in zip(query_ids, order, scores, strict=True):
        names = [document_ids[index] for index in best]
        if qrels.get(query):
            run[query] = dict(zip(names, row[best].tolist(), strict=True))
        rankings[query] = names[:RANKING_DEPTH]
    per_query = evaluate(qrels, run) if run else {name: {} for name in METRIC_NAMES}
    return RunScores(len(document_ids), per_query, rankings)


def retrieval_record(
    model: str,
    variant: str,
    provider: str,
    dataset: str,
    run: RunScores,
    reference_run: RunScores | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON payload of one retrieval job, with its row of ``retrieval.csv``.

    Args:
        model: Name of the model.
        variant: Name of the variant; ``pytorch`` for the reference.
        provider: Execution provider; ``torch-cpu`` or ``torch-cuda`` for PyTorch.
        dataset: Name of the dataset.
        run: The scores of this job.
        reference_run: The PyTorch scores on the same dataset; ``None`` if this is that reference,
            whose delta is 0.0 and whose p-value is null. Without a reference both are null.
        settings: Stored as given; ``confidence``, ``resamples`` and ``seed`` steer the statistics.

    Returns:
        ``rows``; ``statistics`` (metric name to its ``mean``, interval ``low`` to ``high``,
        ``delta`` and ``p_value``), ``per_query`` and ``rankings`` as in :class:`RunScores`;
        ``environment`` and ``settings``. Without judgements every figure but the overlap is null.

    Raises:
        ArtifactError: The reference was scored on other queries or documents.
    """
    used = {
        "evaluation_depth": EVALUATION_DEPTH,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seed": SEED,
        **settings,
    }
    is_reference = variant == "pytorch"
    overlap: float | None = 1.0 if is_reference else None
    if reference_run is not None:
        _check_comparable(run, reference_run)
        overlap = _ranking_overlap(run.rankings, reference_run.rankings)
    statistics = {
        name: _statistics(
            values, reference_run and reference_run.per_query[name], is_reference, used
        )
        for name, values in run.per_query.items()
    }
    judged = len(run.per_query[HEADLINE])
    headline = statistics[HEADLINE]
    row = {
        **_row(model, variant, provider, dataset, "ok", "" if judged else NO_JUDGEMENTS),
        **{name: statistics[name]["mean"] for name in METRIC_NAMES},
        "queries": judged or len(run.rankings),
        "documents": run.documents,
        **{f"{HEADLINE}_{key}": headline[key] for key in ("low", "high", "delta")},
        "p_value": headline["p_value"],
        OVERLAP: overlap,
    }
    return {
        "rows": [row],
        "statistics": statistics,
        "per_query": run.per_query,
        "rankings": run.rankings,
        "environment": environment.describe(),
        "settings": used,
    }


def unsupported_record(
    model: str, variant: str, provider: str, dataset: str, reason: str
) -> dict[str, Any]:
    """The payload of a job that met a known limit: the same columns, null, and the reason."""
    return {
        "rows": [_row(model, variant, provider, dataset, "unsupported", reason)],
        "statistics": {},
        "per_query": {name: {} for name in METRIC_NAMES},
        "rankings": {},
        "environment": environment.describe(),
        "settings": {},
    }


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


def _row(
    model: str, variant: str, provider: str, dataset: str, status: str, reason: str
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys((*COLUMNS, OVERLAP))
    row |= {"model": model, "variant": variant, "provider": provider, "dataset": dataset}
    return row | {"status": status, "reason": reason}


def _statistics(
    values: Mapping[str, float],
    reference: Mapping[str, float] | None,
    is_reference: bool,
    settings: Mapping[str, Any],
) -> dict[str, float | None]:
    """Mean of one metric, how sure it is, and its difference to PyTorch."""
    found: dict[str, float | None] = dict.fromkeys(("mean", "low", "high", "delta", "p_value"))
    if not values:
        return found
    own = list(values.values())
    sampling = {"resamples": settings["resamples"], "seed": settings["seed"]}
    low, high = bootstrap_interval(own, settings["confidence"], **sampling)
    found |= {"mean": float(np.mean(own)), "low": low, "high": high}
    if is_reference:
        found["delta"] = 0.0
    elif reference is not None:
        others = [reference[query] for query in values]
        found["delta"] = float(np.mean(own) - np.mean(others))
        found["p_value"] = paired_randomisation(own, others, **sampling)
    return found


def _check_comparable(run: RunScores, reference: RunScores) -> None:
    """Refuse a reference that ranked other documents or judged other queries."""
    own, others = run.per_query[HEADLINE], reference.per_query[HEADLINE]
    same = own.keys() == others.keys() and run.rankings.keys() == reference.rankings.keys()
    if not same or run.documents != reference.documents:
        raise ArtifactError(
            f"The reference has {len(others)} judged of {len(reference.rankings)} queries on "
            f"{reference.documents} documents and the run {len(own)} of {len(run.rankings)} on "
            f"{run.documents}; they must be the same to be compared."
        )


def _ranking_overlap(
    rankings: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]
) -> float:
    """Mean share of a query's best ten documents that are also among the other ranking's."""
    shares = [len(set(best) & set(others[name])) / len(best) for name, best in rankings.items()]
    return float(np.mean(shares))
