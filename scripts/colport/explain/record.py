"""The record of the stage: pictures and figures of a model's best, median and worst query."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colport.base import machine
from colport.base.errors import UnsupportedError
from colport.base.files import read_json
from colport.data.base import RetrievalDataset
from colport.data.stop_words import stop_words
from colport.explain.explanation import Explanation, preprocessing
from colport.explain.picture import fit, webp
from colport.explain.selection import DAMAGED, Chosen, choose
from colport.families.base import Runtime
from colport.scoring.embed import read_documents, read_queries
from colport.scoring.score import HEADLINE
from colport.scoring.store import EmbeddingSet

_BOX = (224, 300)  # pixels of a picture in the report
_MAX_VARIANTS = 6  # drawn for one query
_DIGITS = 4


@dataclass(frozen=True)
class Results:
    """Where the results of one contender lie.

    Attributes:
        variant: Name of the variant; ``pytorch`` for the reference.
        embeddings: Folder of the embeddings.
        record: File of the retrieval record.
    """

    variant: str
    embeddings: str | Path
    record: str | Path


class _Contender:
    """Results that are there."""

    def __init__(self, results: Results) -> None:
        self.queries = by_id([read_queries(results.embeddings)])
        self.documents = by_id(read_documents(results.embeddings))
        self.record = read_json(results.record)
        self.variant, self.provider = results.variant, self.record["rows"][0]["provider"]

    def embeddings(self, query: str, document: str) -> tuple[np.ndarray, np.ndarray]:
        queries, row = self.queries[query]
        documents, place = self.documents[document]
        return queries[row], documents[place]

    def mean_similarity(self, query: str, document: str) -> float:
        words, patches = self.embeddings(query, document)
        return float((words @ patches.T).max(axis=1).mean())


def by_id(shards: Sequence[EmbeddingSet]) -> dict[str, tuple[EmbeddingSet, int]]:
    """Where each id's embeddings lie."""
    return {name: (shard, row) for shard in shards for row, name in enumerate(shard.ids)}


def explain_record(
    model: str,
    dataset: RetrievalDataset,
    folders: Sequence[str | Path],
    reference: Results,
    given: Sequence[Results],
) -> dict[str, Any]:
    """The JSON payload of one job.

    Args:
        model: Name of the model.
        dataset: Pages with queries.
        folders: Exported folders of the model, for their preprocessing; one that holds a known
            limit instead is passed over.
        reference: PyTorch's results.
        given: The results of each variant on each provider; of a variant the first that has any
            is drawn.

    Returns:
        ``figures``, one for each chosen query: ``kind``, ``query``, ``text``, ``document``,
        ``relevant``, ``grid`` (rows, columns), ``scale`` (least and largest similarity drawn),
        ``largest_change`` (of a patch's mean similarity in any variant, at least 0.001), ``page``
        (base64 of a WebP file, as all pictures), ``tokens`` (text and role), ``shown`` (places in
        ``tokens``), ``undrawn`` (variants beyond the number drawn) and ``contenders``, PyTorch
        first. Each has ``score``, ``ndcg_at_5``, for each token its ``similarities`` and ``places``
        (row and column of its patch, null if it matched none), ``pictures`` (of all words, then of
        each shown one) and ``change`` (of all words against PyTorch, null for PyTorch itself).
        Stop words of the dataset's languages, of English where it names none, count for no picture.
        ``left_out``: each variant without results, and why. ``reason``: why there are no figures.
    """
    record: dict[str, Any] = {
        "model": model,
        "dataset": dataset.name,
        "reason": "",
        "figures": [],
        "left_out": [],
        "environment": machine.describe(),
    }
    try:
        runtime = _first_runtime(folders)
    except UnsupportedError as limit:
        return record | {"reason": str(limit)}
    found, missing = _with_results(given)
    record["left_out"] = [{"variant": name, "reason": why} for name, why in missing.items()]
    first = _Contender(reference)
    chosen = choose(first, found, dataset.qrels)
    record["figures"] = [_figure(one, dataset, runtime, first, found) for one in chosen]
    return record


def _first_runtime(folders: Sequence[str | Path]) -> Runtime:
    for folder in folders:
        try:
            runtime = preprocessing(folder)
            runtime.query_tokens("")  # a model of one vector has none to explain
            return runtime
        except UnsupportedError as limit:
            reason = limit
    raise reason


def _with_results(given: Sequence[Results]) -> tuple[list[_Contender], dict[str, str]]:
    """Each variant on its first provider that has results, and why the others have none."""
    found: dict[str, _Contender] = {}
    missing: dict[str, str] = {}
    for results in given:
        if results.variant not in found:
            try:
                found[results.variant] = _Contender(results)
            except UnsupportedError as limit:
                missing.setdefault(results.variant, str(limit))
    return list(found.values()), {n: why for n, why in missing.items() if n not in found}


def _figure(
    chosen: Chosen,
    dataset: RetrievalDataset,
    runtime: Runtime,
    reference: _Contender,
    variants: Sequence[_Contender],
) -> dict[str, Any]:
    def change(contender: _Contender) -> float:
        place = (chosen.query, chosen.document)
        return abs(contender.mean_similarity(*place) - reference.mean_similarity(*place))

    kept = sorted(variants, key=change, reverse=True)[:_MAX_VARIANTS]
    drawn = {c.variant: c for c in (reference, *(c for c in variants if c in kept))}
    text = dataset.queries[dataset.query_ids.index(chosen.query)]
    page = dataset.documents[dataset.document_ids.index(chosen.document)]
    explanation = Explanation.of(
        runtime,
        text,
        page,
        {name: c.embeddings(chosen.query, chosen.document) for name, c in drawn.items()},
        changed=chosen.kind == DAMAGED and len(drawn) > 1,
        stop_words=stop_words(dataset.languages or ("en",), longest=True),
    )
    grid = explanation.matches[reference.variant].grid

    def described(name: str, contender: _Contender) -> dict[str, Any]:
        match, is_other = explanation.matches[name], name != reference.variant
        return {
            "variant": name,
            "provider": contender.provider,
            "score": match.score,
            HEADLINE: contender.record["per_query"][HEADLINE].get(chosen.query),
            "similarities": [round(float(value), _DIGITS) for value in match.strengths],
            "places": [match.place(token) for token in range(len(explanation.tokens))],
            "pictures": [_base64(picture) for picture in explanation.pictures(name, _BOX)],
            "change": _base64(explanation.change(name, _BOX)) if is_other else None,
        }

    return {
        "kind": chosen.kind,
        "query": chosen.query,
        "text": text,
        "document": chosen.document,
        "relevant": chosen.relevant,
        "grid": [grid.rows, grid.columns],
        "scale": explanation.scale,
        "largest_change": explanation.largest_change,
        "page": _base64(fit(page, _BOX)),
        "tokens": [{"text": token.text, "role": token.role} for token in explanation.tokens],
        "shown": list(explanation.shown),
        "undrawn": len(variants) + 1 - len(drawn),
        "contenders": [described(*item) for item in drawn.items()],
    }


def _base64(picture: Any) -> str:
    return b64encode(webp(picture)).decode()
