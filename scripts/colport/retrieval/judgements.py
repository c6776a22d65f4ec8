"""The user's own queries and judgements, from CSV, TSV or JSONL files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport.errors import DatasetError
from colport.foreign import parse_json

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = ".jsonl"

QUERY = ("query", "text")
QUERY_ID = ("query_id", "query-id")
DOCUMENT = ("document", "document_id", "corpus_id", "corpus-id")
LANGUAGE, PAGE, SCORE = "language", "page", "score"
_LARGEST = 2**31


@dataclass(frozen=True)
class Row:
    """One line of a file, and where it stands.

    Attributes:
        label: Dataset, file and line, for messages.
        values: Column to text; a missing or empty one is left out.
    """

    label: str
    values: Mapping[str, str]

    def get(self, *spellings: str) -> str | None:
        """The value of the column that has one of these names, if there is one."""
        return next((self.values[name] for name in spellings if name in self.values), None)

    def need(self, *spellings: str) -> str:
        """As :meth:`get`.

        Raises:
            DatasetError: The line has no such value.
        """
        value = self.get(*spellings)
        if value is None:
            found = ", ".join(self.values) or "none"
            raise DatasetError(
                f"{self.label}: column {spellings[0]} is missing or empty; found are {found}."
            )
        return value

    def fail(self, column: str, found: object, allowed: str) -> DatasetError:
        """The error for a value that is not allowed."""
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
            raise row.fail(QUERY_ID[0], query, f"an id of its own; {ids[query]} has it already")
        ids[query] = row.label
        texts.append(row.need(*QUERY))
        languages.append(row.get(LANGUAGE))
    return list(ids), texts, languages


def read_judgements(
    name: str,
    file: Path,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    skipped: Mapping[str, str],
) -> dict[str, dict[str, int]]:
    """Query id to document id to judgement.

    Args:
        name: Name of the dataset, for messages.
        file: Columns ``query_id``, ``document`` (``report.pdf#12``, or ``report.pdf`` with a column
            ``page``), and ``score`` (1 without).
        query_ids: The known queries.
        document_ids: The known documents.
        skipped: Documents left out, by id or by file; judgements of theirs are dropped.

    Raises:
        DatasetError: The file cannot be read, names an unknown query or document, holds a score
            that is not a whole number, or judges one pair twice and differently.
    """
    queries, documents = set(query_ids), set(document_ids)
    files = {document.rpartition("#")[0] for document in documents if "#" in document}
    qrels: dict[str, dict[str, int]] = {}
    for row in read_rows(name, file):
        query, document = row.need(*QUERY_ID), row.need(*DOCUMENT)
        if row.get(PAGE):
            document = f"{document}#{_whole(row, PAGE)}"
        if document in skipped or document.rpartition("#")[0] in skipped:
            continue
        if query not in queries:
            raise row.fail(QUERY_ID[0], query, f"one of the {len(queries)} queries")
        if document not in documents:
            hint = f"one of the {len(documents)} documents, as a path inside the folder"
            if document in files:
                hint = f"one of its pages, as {document}#1 or with a column {PAGE}"
            raise row.fail(DOCUMENT[0], document, hint)
        score = _whole(row, SCORE)
        if qrels.setdefault(query, {}).setdefault(document, score) != score:
            raise row.fail(
                SCORE, score, f"one judgement a pair; an earlier line says {qrels[query][document]}"
            )
    return qrels


def read_rows(name: str, file: Path) -> Iterator[Row]:
    """Rows of a CSV, TSV or JSONL file in UTF-8, told apart by the file's suffix.

    Raises:
        DatasetError: The file is missing, of another kind, damaged, or holds no rows.
    """
    label, suffix = f"{name}: {file}", file.suffix.lower()
    if suffix not in {*DELIMITERS, LINES}:
        raise DatasetError(f"{label}: allowed is a {', '.join([*DELIMITERS])} or {LINES} file.")
    try:
        # Some spreadsheets put a byte-order mark first.
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{label}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{label}: is not UTF-8 text (byte {error.start}).") from error
    rows = _json_rows(label, content) if suffix == LINES else _table_rows(label, content, suffix)
    empty = True
    for number, values in rows:
        empty = False
        texts = {key: text for key, value in values.items() if (text := _text(value))}
        yield Row(f"{label}, line {number}", texts)
    if empty:
        raise DatasetError(f"{label}: has no rows; at least one is needed.")


def _table_rows(label: str, content: str, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = io.StringIO(content, newline="")
    reader = csv.reader(lines, delimiter=DELIMITERS[suffix], strict=True)
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


def _text(value: object) -> str:
    """A field as text; what is neither text nor a number counts as empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def _whole(row: Row, column: str) -> int:
    """A whole number, 1 if there is none; ``2.0``, as spreadsheets and pandas write it, is one."""
    text = row.get(column) or "1"
    try:
        if (value := float(text)).is_integer() and abs(value) < _LARGEST:
            return int(value)
    except ValueError:
        pass
    raise row.fail(column, text, "a whole number")
