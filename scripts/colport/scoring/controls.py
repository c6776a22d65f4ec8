"""What bounds a retrieval score from below: a shuffled ranking, and BM25 over the text layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colport.base.errors import UnsupportedError
from colport.base.names import CONTROL
from colport.data.datasets import RetrievalDataset
from colport.data.stop_words import known_languages, stop_words
from colport.scoring.record import retrieval_record, unsupported_record
from colport.scoring.score import RunScores, rank

CONTROLS = ("shuffled", "bm25")
"""Names of the controls, in the column ``variant``."""

SHUFFLES = 20

TOKEN_PATTERN = r"(?u)\b\w+\b"


def control_record(
    control: str, dataset: RetrievalDataset, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of one control on one dataset, in the form of a model's.

    Args:
        control: One of :data:`CONTROLS`.
        dataset: With its text layer, if it has one.
        settings: As for :func:`colport.scoring.record.retrieval_record`.
    """
    labels = {"model": CONTROL, "variant": control, "provider": CONTROL, "dataset": dataset.name}
    try:
        if control == "shuffled":
            run, used = shuffled_run(dataset, settings.get("seed", 0)), {"shuffles": SHUFFLES}
        else:
            run = bm25_run(dataset)
            used = {"tokens": TOKEN_PATTERN, "stop_words": known_languages(dataset.languages)}
    except UnsupportedError as limit:
        return unsupported_record(labels, limit)
    return retrieval_record(labels, run, None, {**settings, **used})


def shuffled_run(dataset: RetrievalDataset, seed: int = 0) -> RunScores:
    """Random rankings: each query's metrics are means over :data:`SHUFFLES` of them.

    They pass through the ranking and the evaluation that models pass through, so a score above
    this floor is not an artefact of either. An interval over queries is that of the expected
    value. The rankings kept are those of the first shuffle.
    """
    rng = np.random.default_rng(seed)
    shape = (len(dataset.query_ids), len(dataset.document_ids))
    runs = [_rank(rng.random(shape, np.float32), dataset) for _ in range(SHUFFLES)]
    per_query = {}
    for name, first in runs[0].per_query.items():
        values = np.mean([list(run.per_query[name].values()) for run in runs], axis=0)
        per_query[name] = dict(zip(first, values.tolist(), strict=True))
    return RunScores(runs[0].documents, per_query, runs[0].rankings)


def bm25_run(dataset: RetrievalDataset) -> RunScores:
    """BM25 over the documents' text, with bm25s (Lù, 2024) and its defaults.

    These are Lucene's variant, k1 = 1.5, b = 0.75. Tokens are lower-cased words without stemming,
    so a script that puts no spaces between words is matched by whole runs of characters. Stop
    words (NLTK's) of the dataset's languages are left out where bm25s has them.

    Args:
        dataset: Its ``texts`` are ranked; a document without text scores 0.

    Raises:
        UnsupportedError: The documents have no text, or bm25s is not installed.
    """
    left_out = sorted(stop_words(dataset.languages))
    from bm25s import BM25, tokenize

    def tokens(texts: Sequence[str]) -> list[list[str]]:
        return tokenize(
            list(texts),
            token_pattern=TOKEN_PATTERN,
            stopwords=left_out,
            return_ids=False,
            show_progress=False,
        )

    documents = tokens(dataset.texts or [])
    if not any(documents):
        raise UnsupportedError("The documents have no text layer.")
    index = BM25()
    index.index(documents, show_progress=False)
    scores = np.zeros((len(dataset.query_ids), len(dataset.document_ids)), np.float32)
    for row, words in zip(scores, tokens(dataset.queries), strict=True):
        if known := [word for word in words if word in index.vocab_dict]:
            row[:] = index.get_scores(known)
    return _rank(scores, dataset)


def _rank(scores: np.ndarray, dataset: RetrievalDataset) -> RunScores:
    return rank(scores, dataset.query_ids, dataset.document_ids, dataset.qrels)
