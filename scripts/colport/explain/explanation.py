"""One query on one page: MaxSim taken apart, by PyTorch and by variants, drawn on one scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from colport.base.errors import ArtifactError
from colport.explain.picture import CHANGE, draw
from colport.families import registry
from colport.families.base import PatchGrid, QueryToken, Runtime
from colport.folder import manifest

_WORDS = 4  # of a query that get pictures of their own
_LEAST_CHANGE = 1e-3  # similarity; a scale of less would paint rounding


@dataclass(frozen=True, eq=False)
class Match:
    """One query on one page, as one model sees them.

    Attributes:
        similarities: ``float32 [query tokens, page tokens]``, dot products.
        grid: Which page tokens are patches.
        own: ``bool [query tokens]``; the query's own words, without punctuation and stop words
            where it has others. All others if it has none.
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
        stop_words: Collection[str] = (),
    ) -> Match:
        """Compare token embeddings.

        Args:
            query: ``float [query tokens, dim]``.
            page: ``float [page tokens, dim]``.
            tokens: What the query's tokens stand for.
            grid: The page's patches.
            stop_words: In lower case.

        Raises:
            ArtifactError: The embeddings have other numbers of tokens than the preprocessing says.
        """
        fewest = int(grid.places.max()) + 1
        if len(query) != len(tokens) or len(page) < fewest:
            raise ArtifactError(
                f"Embeddings of {len(query)} query and {len(page)} page tokens, but the exported "
                f"folder makes {len(tokens)} of the query and at least {fewest} of the "
                "page."
            )
        own = np.array([t.role == "query" and any(map(str.isalnum, t.text)) for t in tokens])
        kept = own & [token.word.lower() not in stop_words for token in tokens]
        similarities = query.astype(np.float32) @ page.astype(np.float32).T
        return cls(similarities, grid, next(mask for mask in (kept, own, ~own) if mask.any()))

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
        return self.similarities[:, self.grid.places]

    @property
    def mean_heat(self) -> np.ndarray:
        """Mean similarity of the query's own words with each patch, ``[rows, columns]``."""
        return self.heats[self.own].mean(axis=0)

    def place(self, token: int) -> tuple[int, int] | None:
        """Row and column of the patch that a query token matched; ``None`` if it is none."""
        return self.grid.place(int(self.similarities[token].argmax()))


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


@dataclass(frozen=True, eq=False)
class Explanation:
    """The matches of one query with one page.

    Attributes:
        page: The page.
        tokens: What the query's tokens stand for.
        matches: Name to match; the first is what the others are held against.
        shown: Query tokens that get pictures of their own.
    """

    page: Image.Image
    tokens: Sequence[QueryToken]
    matches: Mapping[str, Match]
    shown: Sequence[int]

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        query: str,
        page: Image.Image,
        embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]],
        changed: bool = False,
        stop_words: Collection[str] = (),
    ) -> Explanation:
        """Take the scores of a query and a page apart.

        Args:
            runtime: Preprocessing of the model.
            query: Its text.
            page: The page.
            embeddings: Name to the token embeddings of the query and of the page.
            changed: Show the words that changed most from the first to any other, not the
                strongest ones of the first.
            stop_words: Words to leave out, in lower case.

        Raises:
            ArtifactError: The embeddings are not of this query and this page.
            UnsupportedError: The model reads passages.
        """
        tokens, grid = runtime.query_tokens(query), runtime.patches(page)
        matches = {
            name: Match.of(*pair, tokens, grid, stop_words) for name, pair in embeddings.items()
        }
        first, *others = matches.values()
        shown = most_changed(first, others, _WORDS) if changed else strongest(first, _WORDS)
        return cls(page, tokens, matches, shown)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Least and largest value of all pictures."""
        heats = [heat for match in self.matches.values() for heat in self._heats(match)]
        return float(np.min(heats)), float(np.max(heats))

    def pictures(self, name: str, box: tuple[int, int]) -> list[Image.Image]:
        """The page under the mean heat of all words, then under that of each shown one.

        The patches that the shown words matched are outlined.

        Args:
            name: Whose match.
            box: Largest width and height of a picture in pixels.
        """
        match = self.matches[name]
        part, places = match.grid.page, [match.place(token) for token in self.shown]
        return [
            draw(self.page, heat, self.scale, [at for at in marked if at], box, part=part)
            for heat, marked in zip(self._heats(match), [places, *zip(places)], strict=True)
        ]

    @cached_property
    def largest_change(self) -> float:
        """The scale of :meth:`change` ends at this gain and this loss."""
        changes = [np.abs(self._change(match)).max() for match in self.matches.values()]
        return max(_LEAST_CHANGE, float(np.max(changes)))

    def change(self, name: str, box: tuple[int, int]) -> Image.Image:
        """The page under the change of the words' mean heat from the first match to another.

        Args:
            name: Whose match.
            box: Largest width and height of the picture in pixels.
        """
        scale = (-self.largest_change, self.largest_change)
        match = self.matches[name]
        return draw(self.page, self._change(match), scale, [], box, CHANGE, match.grid.page)

    def _change(self, match: Match) -> np.ndarray:
        return match.mean_heat - next(iter(self.matches.values())).mean_heat

    def _heats(self, match: Match) -> list[np.ndarray]:
        return [match.mean_heat, *(match.heats[token] for token in self.shown)]


def preprocessing(folder: Path | str) -> Runtime:
    """How an exported folder makes tokens, without its graphs; see :func:`manifest.read`."""
    found = manifest.read(folder)
    return registry.get(found.family).runtime(found.processing, Path(folder))
