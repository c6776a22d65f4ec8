"""Which queries are explained: the best, the median and the most damaged one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from colport.scoring.score import HEADLINE

BEST, MEDIAN, DAMAGED = "best", "median", "most damaged"


class Contender(Protocol):
    """Results of PyTorch or of a variant; ``record`` is its retrieval record."""

    record: Mapping[str, Any]

    def mean_similarity(self, query: str, document: str) -> float:
        """MaxSim of a query and a page, by their ids, over the query's number of tokens."""


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
    reference: Contender, variants: Sequence[Contender], qrels: Mapping[str, Mapping[str, int]]
) -> list[Chosen]:
    """The best, the median and the most damaged query, each another one.

    Best and median go by the reference's NDCG@5, then by its MaxSim a word of the query. Most
    damaged is the largest loss of NDCG@5 in any variant, then of MaxSim on the relevant page.
    Without judgements MaxSim alone decides, on the reference's first page.

    Args:
        reference: PyTorch's results.
        variants: Those of the variants.
        qrels: Judgements.
    """
    quality, rankings = reference.record["per_query"][HEADLINE], reference.record["rankings"]
    pages = {query: _page(rankings[query], qrels.get(query, {})) for query in quality or rankings}
    scores = {query: reference.mean_similarity(query, page) for query, (page, _) in pages.items()}

    def fading(query: str) -> float:
        """Largest loss of MaxSim in any variant, as a share."""
        page = pages[query][0]
        lost = max(scores[query] - other.mean_similarity(query, page) for other in variants)
        return lost / (abs(scores[query]) or 1.0)

    ascending = sorted(pages, key=lambda query: (quality.get(query, 0.0), scores[query]))
    chosen: dict[str, str] = {}
    if variants:
        others = [variant.record["per_query"][HEADLINE] for variant in variants]
        losses = dict.fromkeys(pages, 0.0)
        for query, own in quality.items():
            losses[query] = max(own - other[query] for other in others)
        worst = max(losses.values())
        tied = [query for query, loss in losses.items() if np.isclose(loss, worst)]
        chosen[DAMAGED] = max(tied, key=fading)
        ascending.remove(chosen[DAMAGED])
    if ascending:
        chosen[BEST] = ascending.pop()
    if ascending:
        chosen[MEDIAN] = ascending[len(ascending) // 2]
    order = [kind for kind in (BEST, MEDIAN, DAMAGED) if kind in chosen]
    return [Chosen(kind, chosen[kind], *pages[chosen[kind]]) for kind in order]


def _page(ranking: Sequence[str], grades: Mapping[str, int]) -> tuple[str, bool]:
    """The most relevant page, the one ranked highest among equals, and whether it is relevant."""
    place = {document: rank for rank, document in enumerate(ranking)}
    judged = {name: grade for name, grade in grades.items() if grade > 0}
    if not judged:
        return ranking[0], False
    return min(judged, key=lambda name: (-judged[name], place.get(name, len(ranking)))), True
