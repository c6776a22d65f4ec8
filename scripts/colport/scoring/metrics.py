"""Retrieval metrics, computed by trec_eval's code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

METRICS = {
    "ndcg_at_1": "ndcg_cut_1",
    "ndcg_at_5": "ndcg_cut_5",
    "ndcg_at_10": "ndcg_cut_10",
    "recall_at_1": "recall_1",
    "recall_at_5": "recall_5",
    "recall_at_10": "recall_10",
    "map": "map",
}
"""Column name to pytrec_eval's name. All range from 0 to 1; higher is better."""

MRR = "mrr_at_10"
DEPTH = 10
EXPONENTIAL = "ndcg_exp_at_10"
"""NDCG with a gain of 2 to the power of the judgement, less 1. Of judgements of 0 and 1 it is
``ndcg_at_10``, whose gain is linear."""

METRIC_NAMES = (*METRICS, MRR, EXPONENTIAL)
GAINS = {EXPONENTIAL: "exponential"} | {name: "linear" for name in METRICS if "ndcg" in name}
"""What a relevant document counts for, of the metrics where it may differ."""

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


def evaluate(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Per-query metrics of a run.

    Uses ``pytrec_eval`` (Van Gysel and de Rijke, SIGIR 2018), so the gain of NDCG is the
    judgement itself and documents with the same score are ordered by descending document id,
    never by their order in ``run``. trec_eval has no reciprocal rank with a cut-off, and no other
    gain: ``mrr_at_10`` is its reciprocal rank of the first ten documents in that same order, and
    :data:`EXPONENTIAL` (Burges et al., ICML 2005) is of these documents, too.

    Args:
        qrels: Judgements, query id to document id to an integer; above 0 is relevant.
        run: Scores, query id to document id to float32 value.

    Returns:
        Metric name to query id to value, for all of :data:`METRIC_NAMES`. Queries without a
        judgement are left out; a judged query without a relevant document counts as 0.

    Raises:
        ValueError: A judged query is not in ``run``, or no query is judged.
    """
    import pytrec_eval

    judged = {query: dict(documents) for query, documents in qrels.items() if documents}
    if not judged:
        raise ValueError("No query has a judgement.")
    if missing := sorted(set(judged) - set(run)):
        raise ValueError(f"Judged queries are not in the run: {', '.join(missing[:5])}.")
    full = {query: dict(run[query]) for query in judged}
    first = {query: dict(_first(scores, DEPTH)) for query, scores in full.items()}
    results = pytrec_eval.RelevanceEvaluator(judged, set(METRICS.values())).evaluate(full)
    ranks = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(first)
    values = {
        name: {query: results[query][source] for query in judged}
        for name, source in METRICS.items()
    }
    values[MRR] = {query: ranks[query]["recip_rank"] for query in judged}
    values[EXPONENTIAL] = {
        query: _exponential(judgements, first[query]) for query, judgements in judged.items()
    }
    return values


def _first(scores: Mapping[str, float], depth: int) -> list[tuple[str, float]]:
    """Best documents of one query in trec_eval's order, which compares scores as C floats."""
    ranked = sorted(scores.items(), key=lambda item: (np.float32(item[1]), item[0]), reverse=True)
    return ranked[:depth]


def _exponential(judgements: Mapping[str, int], ranked: Mapping[str, float]) -> float:
    """NDCG of the first documents of one query, gains by the largest, which may be any number."""
    relevant = {name: score for name, score in judgements.items() if score > 0}
    top = max(relevant.values(), default=0)
    gains = {name: 2.0 ** (score - top) - 2.0**-top for name, score in relevant.items()}
    found = [gains.get(name, 0.0) for name in ranked]
    ideal = sorted(gains.values(), reverse=True)[:DEPTH]
    discounts = np.log2(np.arange(2, DEPTH + 2))
    best = np.sum(ideal / discounts[: len(ideal)])
    return float(np.sum(found / discounts[: len(found)]) / best) if best else 0.0
