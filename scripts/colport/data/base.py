"""What every loader of a dataset returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL.Image import Image

from colport.base.errors import DatasetError

_REPORT_SECONDS = 5.0
MAX_JUDGEMENT = 10**6
"""Either side of zero; trec_eval counts documents in a table with a place for each judgement."""


def batches(
    count: int, size: int, done: str, kind: str, report: Callable[[str], None]
) -> Iterator[range]:
    """Places of so many inputs in batches; says every few seconds how many are done.

    Args:
        count: Inputs.
        size: Inputs of a batch.
        done: What happens to them, for messages.
        kind: What they are, for messages.
        report: Called with each message.
    """
    start = reported = time.monotonic()
    for first in range(0, count, size):
        last = min(first + size, count)
        yield range(first, last)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            rate = last / (reported - start)
            left = (count - last) / rate
            report(f"{done} {last}/{count} {kind}, {rate:.1f} a second, {left:.0f} s left")
    report(f"{done} {count} {kind} in {time.monotonic() - start:.1f} s")


def in_language(
    label: str, found: Sequence[str | None], language: str | None
) -> tuple[list[bool], tuple[str, ...]]:
    """Which queries are in a language, all of them for ``None``, and the languages that are kept.

    Args:
        label: What the message calls the queries.
        found: The language of each query, where it has one.
        language: The one to keep.

    Raises:
        DatasetError: No query is in it.
    """
    known = tuple(sorted({value for value in found if value is not None}))
    if language is None:
        return [True] * len(found), known
    if language not in known:
        raise DatasetError(
            f"{label}: no query is in {language!r}; found {', '.join(known) or 'none'}."
        )
    return [value == language for value in found], (language,)


class Lazy(Sequence[Any]):
    """Items that are read one by one, each when it is indexed; slices are lazy too.

    Args:
        places: Where they lie.
        read: Reads the item at a place.
    """

    def __init__(self, places: Sequence[Any], read: Callable[[Any], Any]) -> None:
        self._places, self._read = places, read

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Lazy(self._places[index], self._read)
        return self._read(self._places[index])


def _picked(items: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
    """Some of the items; those that are read one by one still are."""
    if isinstance(items, list):
        return [items[row] for row in rows]
    return Lazy(rows, items.__getitem__)


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """Queries, documents and judgements; or pictures with captions or answers.

    Of captions the documents are pictures. A query is what the model is given beside one, a prompt
    or a question, empty where it is given none, and its only judgement names its picture.

    Attributes:
        name: Name of the dataset in the configuration.
        query_ids: One id a query, unique.
        queries: Text of each query.
        document_ids: One id a document, unique.
        documents: PIL RGB images (pages, each decoded when it is indexed) or strings (passages).
            Slices of it are lazy too.
        qrels: Query id to document id to an integer judgement; above 0 is relevant. Every id in it
            is in ``query_ids`` or ``document_ids``. Empty for the user's own documents without
            judgements.
        texts: Text of each document, empty where there is none: passages themselves, the text
            layer of PDFs, a text column beside the pages. ``None`` if no document has text.
        languages: Languages of the queries, as the dataset names them; empty if it does not.
        skipped: Id or file of each document left out, and why.
        references: Query id to captions or answers, one at least; ``None`` of retrieval.
        are_answers: Whether they are answers.
    """

    name: str
    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: Sequence[Image] | Sequence[str]
    qrels: dict[str, dict[str, int]]
    texts: Sequence[str] | None = None
    languages: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, list[str]] | None = None
    are_answers: bool = False

    @property
    def pictures(self) -> Sequence[Image]:
        """Of captions: each query's picture, decoded when it is indexed."""
        places = {name: row for row, name in enumerate(self.document_ids)}
        return Lazy(
            [places[next(iter(self.qrels[query]))] for query in self.query_ids],
            self.documents.__getitem__,
        )

    def with_queries(self, rows: Sequence[int]) -> RetrievalDataset:
        """The dataset with the queries of these rows only, and their judgements."""
        query_ids = [self.query_ids[row] for row in rows]
        return replace(
            self,
            query_ids=query_ids,
            queries=[self.queries[row] for row in rows],
            qrels={query: self.qrels[query] for query in query_ids if query in self.qrels},
            references=self.references and {query: self.references[query] for query in query_ids},
        )

    def without(self, bad: Mapping[str, str]) -> RetrievalDataset:
        """The dataset without some documents and their judgements.

        Args:
            bad: Id of each, and why it is left out.

        Raises:
            DatasetError: None is left.
        """
        rows = [row for row, name in enumerate(self.document_ids) if name not in bad]
        if not rows:
            first, reason = next(iter(bad.items()))
            raise DatasetError(f"{self.name}: no document is left; {first} {reason}.")
        left = replace(self._with_documents(rows), skipped={**self.skipped, **bad})
        if self.references is None:
            return left
        return left.with_queries(
            [n for n, query in enumerate(left.query_ids) if query in left.qrels]
        )

    def recorded(self, record: Mapping[str, Any]) -> RetrievalDataset:
        """The documents, queries and judgements that a record of this dataset names.

        Args:
            record: See :func:`colport.data.datasets.dataset_record`.

        Raises:
            DatasetError: It names a document that is not there.
        """
        places = {name: row for row, name in enumerate(self.document_ids)}
        for name in record["document_ids"]:
            if name not in places:
                raise DatasetError(f"{self.name}: {name} is no longer there; run the stage again.")
        fields = ("query_ids", "queries", "qrels", "skipped", "references")
        return replace(
            self._with_documents([places[name] for name in record["document_ids"]]),
            **{field: record[field] for field in fields},
            languages=tuple(record["languages"]),
        )

    def _with_documents(self, rows: Sequence[int]) -> RetrievalDataset:
        """The dataset with the documents of these rows only, and their judgements."""
        document_ids = [self.document_ids[row] for row in rows]
        kept = set(document_ids)
        qrels = {
            query: {name: score for name, score in judged.items() if name in kept}
            for query, judged in self.qrels.items()
        }
        return replace(
            self,
            document_ids=document_ids,
            documents=_picked(self.documents, rows),
            texts=None if self.texts is None else _picked(self.texts, rows),
            qrels={query: judged for query, judged in qrels.items() if judged},
        )

    def first_documents(self, limit: int) -> RetrievalDataset:
        """The first documents, with the queries whose relevant documents are all among them.

        Without any judgement, all queries are kept.
        """
        limited = self._with_documents(range(len(self.document_ids))[:limit])
        if not self.qrels:
            return limited
        kept = set(limited.document_ids)
        relevant = [
            {name for name, score in self.qrels.get(query, {}).items() if score > 0}
            for query in self.query_ids
        ]
        return limited.with_queries(
            [row for row, names in enumerate(relevant) if names and names <= kept]
        )
