"""MaxSim taken apart: every query token with every page token, and what it adds to the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from colport.base.errors import ArtifactError
from colport.families.base import PatchGrid, QueryToken


@dataclass(frozen=True, eq=False)
class Match:
    """One query on one page, as one model sees them.

    Attributes:
        similarities: ``float32 [query tokens, page tokens]``, dot products.
        grid: Which page tokens are patches.
        own: ``bool [query tokens]``; the query's own words, without punctuation. All others if it
            has none.
    """

    similarities: np.ndarray
    grid: PatchGrid
    own: np.ndarray

    @classmethod
    def of(
        cls,
        query: np.ndarray,
        page: np.ndarray,
        tokens: Sequence[QueryToken],
        grid: PatchGrid,
    ) -> Match:
        """Compare token embeddings.

        Args:
            query: ``float [query tokens, dim]``.
            page: ``float [page tokens, dim]``.
            tokens: What the query's tokens stand for.
            grid: The page's patches.

        Raises:
            ArtifactError: The embeddings have other numbers of tokens than the preprocessing says.
        """
        if len(query) != len(tokens) or len(page) < grid.tokens.stop:
            raise ArtifactError(
                f"Embeddings of {len(query)} query and {len(page)} page tokens, but the exported "
                f"folder makes {len(tokens)} of the query and at least {grid.tokens.stop} of the "
                "page."
            )
        own = np.array([t.role == "query" and any(map(str.isalnum, t.text)) for t in tokens])
        similarities = query.astype(np.float32) @ page.astype(np.float32).T
        return cls(similarities, grid, own if own.any() else ~own)

    @cached_property
    def best(self) -> np.ndarray:
        """The page token that each query token matched, ``int64 [query tokens]``."""
        return self.similarities.argmax(axis=1)

    @cached_property
    def strengths(self) -> np.ndarray:
        """What each query token adds to the score, ``float32 [query tokens]``."""
        return self.similarities.max(axis=1)

    @property
    def score(self) -> float:
        """MaxSim of the query and the page."""
        return float(self.strengths.sum())

    @property
    def heats(self) -> np.ndarray:
        """Similarity of each query token with each patch, ``[query tokens, rows, columns]``."""
        patches = self.similarities[:, self.grid.tokens]
        return patches.reshape(-1, self.grid.rows, self.grid.columns)

    @property
    def mean_heat(self) -> np.ndarray:
        """Mean similarity of the query's own words with each patch, ``[rows, columns]``."""
        return self.heats[self.own].mean(axis=0)

    def place(self, token: int) -> tuple[int, int] | None:
        """Row and column of the patch that a query token matched; ``None`` if it is none."""
        return self.grid.place(int(self.best[token]))


def strongest(match: Match, count: int) -> list[int]:
    """The query's own words that add most to the score, those that matched a patch first."""
    places = [match.place(token) for token in range(len(match.own))]
    order = np.lexsort((-match.strengths, [place is None for place in places], ~match.own))
    return [int(token) for token in order[: min(count, int(match.own.sum()))]]


def most_changed(reference: Match, others: Sequence[Match], count: int) -> list[int]:
    """The query's own words whose part of the score changed most in any of the others."""
    changes = [np.abs(other.strengths - reference.strengths) for other in others]
    order = np.lexsort((-np.max(changes, axis=0), ~reference.own))
    return [int(token) for token in order[: min(count, int(reference.own.sum()))]]
