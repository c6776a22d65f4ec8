"""Which queries are explained: the best, the median and the most damaged one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colport.scoring.score import HEADLINE

BEST, MEDIAN, DAMAGED = "best", "median", "most damaged"
Scorer = Callable[[str, str], float]
"""MaxSim of a query and a document, by their ids."""


@dataclass(frozen=True)
class Chosen:
    """One query to explain, and the page to explain it on.

    Attributes:
        kind: ``best``, ``median`` or ``most damaged``.
        query: Its id.
        document: Id of the page.
        relevant: Whether the page is judged relevant.
    """

    kind: str
    query: str
    document: str
    relevant: bool


def choose(
    reference: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    qrels: Mapping[str, Mapping[str, int]],
    score: Scorer,
    variant_scores: Sequence[Scorer],
) -> list[Chosen]:
    """The best, the median and the most damaged query, each another one.

    Best and median go by the reference's NDCG@5, then by its MaxSim a word of the query. Most
    damaged is the largest loss of NDCG@5 in any variant, then of MaxSim on the relevant page.
    Without judgements MaxSim alone decides, on the reference's first page.

    Args:
        reference: Retrieval record of PyTorch.
        variants: Retrieval records of the variants.
        qrels: Judgements.
        score: The reference's MaxSim, divided by the query's number of tokens.
        variant_scores: MaxSim of each variant, likewise.
    """
    quality = reference["per_query"][HEADLINE]
    pages = {query: _page(query, reference, qrels) for query in quality or reference["rankings"]}
    scores = {query: score(query, page) for query, (page, _) in pages.items()}
    ascending = sorted(pages, key=lambda query: (quality.get(query, 0.0), scores[query]))
    chosen: dict[str, str] = {}
    if variants:
        chosen[DAMAGED] = _most_damaged(quality, variants, pages, scores, variant_scores)
        ascending.remove(chosen[DAMAGED])
    if ascending:
        chosen[BEST] = ascending.pop()
    if ascending:
        chosen[MEDIAN] = ascending[len(ascending) // 2]
    order = [kind for kind in (BEST, MEDIAN, DAMAGED) if kind in chosen]
    return [Chosen(kind, chosen[kind], *pages[chosen[kind]]) for kind in order]


def _page(
    query: str, reference: Mapping[str, Any], qrels: Mapping[str, Mapping[str, int]]
) -> tuple[str, bool]:
    """The most relevant page, the one that the reference ranks highest among equals."""
    ranking = reference["rankings"][query]
    place = {document: rank for rank, document in enumerate(ranking)}
    judged = {name: grade for name, grade in qrels.get(query, {}).items() if grade > 0}
    if not judged:
        return ranking[0], False
    return min(judged, key=lambda name: (-judged[name], place.get(name, len(ranking)))), True


def _most_damaged(
    quality: Mapping[str, float],
    variants: Sequence[Mapping[str, Any]],
    pages: Mapping[str, tuple[str, bool]],
    scores: Mapping[str, float],
    variant_scores: Sequence[Scorer],
) -> str:
    others = [record["per_query"][HEADLINE] for record in variants]
    losses = dict.fromkeys(pages, 0.0)
    losses |= {query: max(own - other[query] for other in others) for query, own in quality.items()}
    worst = max(losses.values())
    tied = [query for query, loss in losses.items() if np.isclose(loss, worst)]

    def fading(query: str) -> float:
        page = pages[query][0]
        lost = max(scores[query] - other(query, page) for other in variant_scores)
        return lost / (abs(scores[query]) or 1.0)

    return max(tied, key=fading)
