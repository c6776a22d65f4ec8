"""The user's own queries and judgements, from CSV, TSV or JSONL files."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from colport.base.errors import DatasetError, read_of
from colport.base.foreign import load_text, not_text, parse_json
from colport.data.base import MAX_JUDGEMENT

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = ".jsonl"

QUERY = ("query", "text")
QUERY_ID = ("query_id", "query-id")
DOCUMENT = ("document", "document_id", "corpus_id", "corpus-id")
LANGUAGE, PAGE, SCORE = "language", "page", "score"
_COLUMNS = (*QUERY, *QUERY_ID, *DOCUMENT, LANGUAGE, PAGE, SCORE)
_TRUTH = {"false": 0, "true": 1}
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Row:
    """One line of a file, and where it stands.

    Attributes:
        label: Dataset, file and line, for messages.
        values: Column to what stands there.
    """

    label: str
    values: Mapping[str, Any]

    def get(self, *spellings: str) -> str | None:
        """The text of the column that has one of these names; ``None`` if it is empty or missing.

        Raises:
            DatasetError: What stands there is neither text nor a number, or two of them differ.
        """
        found = {text: name for name in reversed(spellings) if (text := self._text(name))}
        if len(found) > 1:
            raise DatasetError(
                f"{self.label}: columns {' and '.join(reversed(found.values()))} differ; allowed "
                "is one of them."
            )
        return next(iter(found), None)

    def need(self, *spellings: str) -> str:
        """As :meth:`get`.

        Raises:
            DatasetError: The line has no such value.
        """
        value = self.get(*spellings)
        if value is None:
            found = ", ".join(name for name in self.values if self._text(name)) or "none"
            wanted = " or ".join(spellings)
            raise DatasetError(
                f"{self.label}: column {wanted} is missing or empty; found are {found}."
            )
        return value

    def texts(self, column: str) -> list[str]:
        """The text of a column, or those of the list that stands there, as JSON or not.

        Only a column whose name ends in ``s`` is read as JSON.

        Raises:
            DatasetError: There is none, or one of them is empty or no text.
        """
        found = self.values[column]
        if isinstance(found, str) and column.endswith("s"):
            try:
                found = parse_json(found)
            except ValueError as error:
                raise self.fail((column,), found, "a list of texts as JSON") from error
        items = found if isinstance(found, list) and found else [found]
        stripped = (item.strip() if isinstance(item, str) else item for item in items)
        return [Row(self.label, {column: item}).need(column) for item in stripped]

    def whole(self, column: str) -> int:
        """A whole number; ``2.0``, as spreadsheets and pandas write it, is one.

        Raises:
            DatasetError: Anything else stands there, or nothing.
        """
        found = self.values.get(column)
        text = str(found).strip()
        is_plain = isinstance(found, str | int | float) and not isinstance(found, bool)
        if is_plain and _NUMBER.fullmatch(text):
            value = float(text)
            if value.is_integer() and abs(value) <= MAX_JUDGEMENT:
                return int(value)
        raise self.fail((column,), found, f"a whole number up to {MAX_JUDGEMENT}")

    def _text(self, column: str) -> str:
        found = self.values.get(column)
        if found is None:
            return ""
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not isinstance(found, str) and not (is_number and math.isfinite(found)):
            raise DatasetError(
                f"{self.label}: column {column} is missing or empty, found is {found!r}; allowed "
                "is text or a number."
            )
        text = str(found)
        if half := not_text(text):
            raise DatasetError(f"{self.label}, column {column}: holds {half}, which is no text.")
        return text

    def fail(self, spellings: Sequence[str], found: object, allowed: str) -> DatasetError:
        """The error for a value that is not allowed, in the column that has one of these names."""
        column = next((name for name in spellings if name in self.values), spellings[0])
        return DatasetError(
            f"{self.label}, column {column}: found {found!r}; allowed is {allowed}."
        )


def read_queries(
    name: str, file: Path, *, ids_needed: bool
) -> tuple[list[str], list[str], list[str | None]]:
    """Ids, texts and languages of a file of queries.

    Args:
        name: Name of the dataset, for messages.
        file: Columns ``query``, ``query_id`` (``q1``, ``q2`` … by line without) and, optionally,
            ``language``.
        ids_needed: Whether judgements refer to them, so that the column must be there.

    Raises:
        DatasetError: The file cannot be read, is empty, lacks a value or repeats an id.
    """
    ids: dict[str, str] = {}
    texts, languages = [], []
    for number, row in enumerate(read_rows(name, file), start=1):
        query = row.need(*QUERY_ID) if ids_needed else row.get(*QUERY_ID) or f"q{number}"
        if query in ids:
            raise row.fail(QUERY_ID, query, f"an id of its own; {ids[query]} has it already")
        ids[query] = row.label
        texts.append(row.need(*QUERY))
        languages.append(row.get(LANGUAGE))
    return list(ids), texts, languages


def judged(
    rows: Sequence[Row],
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    skipped: Iterable[str] = (),
) -> dict[str, dict[str, int]]:
    """Query id to document id to judgement, of the user's own file or a published table.

    Args:
        rows: Columns ``query_id``, ``document`` (``report.pdf#12``, or ``report.pdf`` with a column
            ``page``), and ``score`` (1 without), in any of their spellings.
        query_ids: The known queries.
        document_ids: The known documents.
        skipped: Documents left out, by id or by file; judgements of theirs are dropped.

    Raises:
        DatasetError: A row names an unknown query or document, holds a score that is not a whole
            number or lacks one that other rows have, or judges one pair twice and differently.
    """
    queries, documents, left_out = map(Names, (query_ids, document_ids, skipped))
    files = {document.rpartition("#")[0] for document in document_ids if "#" in document}
    qrels: dict[str, dict[str, int]] = {}
    scored = next((row for row in rows if SCORE in row.values), None)
    for row in rows:
        query, document = queries.known(row.need(*QUERY_ID)), row.need(*DOCUMENT)
        if row.get(PAGE):
            document = f"{document}#{row.whole(PAGE)}"
        document = documents.known(document)
        score = _score(row, scored)
        if document in left_out or document.rpartition("#")[0] in left_out:
            continue
        if query not in queries:
            raise row.fail(QUERY_ID, query, f"one of the {len(query_ids)} queries")
        if document not in documents:
            hint = f"one of the {len(document_ids)} documents"
            if document in files:
                hint = f"one of its pages, as {document}#1 or with a column {PAGE}"
            raise row.fail(DOCUMENT, document, hint)
        if qrels.setdefault(query, {}).setdefault(document, score) != score:
            earlier = f"one judgement a pair; an earlier one says {qrels[query][document]}"
            raise row.fail((SCORE,), score, earlier)
    return qrels


class Names:
    """Names, each found in either of Unicode's normal forms: file systems differ in theirs."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_form: dict[str, list[str]] = {}
        for name in self._names:
            self._by_form.setdefault(normalize("NFC", name), []).append(name)

    def __contains__(self, name: str) -> bool:
        return self.known(name) in self._names

    def known(self, name: str) -> str:
        """The name itself, or the only one that is written so in the other form."""
        alike = self._by_form.get(normalize("NFC", name), [])
        return alike[0] if name not in self._names and len(alike) == 1 else name


def _score(row: Row, scored: Row | None) -> int:
    """The judgement of a line: its score, 0 for false, or 1 where no line has one.

    Raises:
        DatasetError: It is no whole number, stands in another line (``scored``) only, or may stand
            in a column of another name.
    """
    if SCORE in row.values:
        found = _TRUTH.get(str(row.values[SCORE]).strip().lower())
        return row.whole(SCORE) if found is None else found
    if scored:
        raise DatasetError(f"{row.label}: column {SCORE} is missing; {scored.label} has it.")
    if others := [column for column in row.values if column not in _COLUMNS]:
        raise DatasetError(
            f"{row.label}: column {others[0]!r} is not known; allowed are {QUERY_ID[0]}, "
            f"{DOCUMENT[0]}, {PAGE} and {SCORE}, and others beside {SCORE} only."
        )
    return 1


def read_rows(name: str, file: Path, columns: Sequence[str] = _COLUMNS) -> Iterator[Row]:
    """Rows of a CSV, TSV or JSONL file in UTF-8, told apart by the file's suffix.

    Args:
        name: Name of the dataset, for messages.
        file: The file.
        columns: Those that have a meaning; others may be there, but none that is spelt like one.

    Raises:
        DatasetError: The file is missing, of another kind, damaged, or holds no rows.
    """
    label, suffix = f"{name}: {file}", file.suffix.lower()
    if suffix not in {*DELIMITERS, LINES}:
        raise DatasetError(f"{label}: allowed is a {', '.join([*DELIMITERS])} or {LINES} file.")
    content = read_text(label, file)
    rows = _json_rows(label, content) if suffix == LINES else _table_rows(label, content, suffix)
    row = None
    for number, values in rows:
        stripped = {k: v.strip() if isinstance(v, str) else v for k, v in values.items()}
        row = Row(f"{label}, line {number}", stripped)
        for column in values:
            if (known := column.strip().lower()) in columns and column not in columns:
                raise DatasetError(f"{row.label}: column {column!r} is to be called {known!r}.")
        yield row
    if row is None:
        raise DatasetError(f"{label}: has no rows; at least one is needed.")


def read_text(label: str, file: Path) -> str:
    """The text of a file, see :func:`colport.base.foreign.load_text`.

    Raises:
        DatasetError: It cannot be read, or is in another encoding.
    """
    with read_of(DatasetError, label):
        return load_text(file)


def _table_rows(label: str, content: str, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(content), delimiter=DELIMITERS[suffix], strict=True)
    header: list[str] = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = [field.strip() for field in fields]
                if repeated := sorted({name for name in header if header.count(name) > 1}):
                    raise DatasetError(f"{label}: column {repeated[0]} occurs twice in the header.")
                continue
            if len(fields) != len(header):
                raise DatasetError(
                    f"{label}, line {reader.line_num}: has {len(fields)} columns, the header "
                    f"{len(header)} ({', '.join(header)})."
                )
            yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DatasetError(f"{label}, line {reader.line_num}: cannot be read ({error}).") from error


def _json_rows(label: str, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise DatasetError(f"{label}, line {number}: is not JSON ({reason}).") from error
        if not isinstance(values, dict):
            raise DatasetError(f"{label}, line {number}: is not an object with columns.")
        yield number, values
