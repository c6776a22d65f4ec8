"""Pictures with captions or answers: the user's own, from CSV, TSV or JSONL files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from colport.base.errors import DatasetError
from colport.data.judgements import Names, read_rows

PICTURE, PROMPT = "picture", ("prompt", "question")
CAPTION, ANSWER = ("caption", "captions"), ("answer", "answers")
REFERENCES = (*CAPTION, *ANSWER)
"""Columns of a text, or of a list of them: in CSV and TSV those in the plural, as JSON."""

COLUMNS = (PICTURE, *PROMPT, *REFERENCES)


def read_captions(
    name: str, file: Path, document_ids: Sequence[str], skipped: Iterable[str] = ()
) -> dict[str, Any]:
    """Prompts and references of the user's own pictures.

    Args:
        name: Name of the dataset, for messages.
        file: Columns :data:`PICTURE`, one of :data:`CAPTION` and :data:`ANSWER` and, optionally,
            one of :data:`PROMPT`.
        document_ids: The known pictures.
        skipped: Pictures left out, by id or by file; lines of theirs are dropped.

    Returns:
        Attributes of a dataset: ``query_ids`` (a line is called by its picture or, where it has a
        prompt, ``q1``, ``q2`` … by its number), ``queries``, ``qrels``, ``references`` and
        ``are_answers``.

    Raises:
        DatasetError: The file cannot be read; a column is not known; a picture is not there, or has
            two lines with one prompt; a caption or answer is empty, or in a column of its own.
    """
    documents, left_out = Names(document_ids), Names(skipped)
    lines: dict[tuple[str, str], str] = {}
    column: str | None = None
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    references: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(name, file, COLUMNS), start=1):
        if unknown := [name for name in row.values if name not in COLUMNS]:
            raise DatasetError(
                f"{row.label}: column {unknown[0]!r} is not known; allowed are "
                f"{', '.join(COLUMNS)}."
            )
        picture, prompt = documents.known(row.need(PICTURE)), row.get(*PROMPT) or ""
        if picture in left_out or picture.rpartition("#")[0] in left_out:
            continue
        if picture not in documents:
            raise row.fail((PICTURE,), picture, f"one of the {len(document_ids)} pictures")
        if (first := lines.setdefault((picture, prompt), row.label)) != row.label:
            raise row.fail((PICTURE,), picture, f"one line a picture and prompt, as {first} has it")
        found = [name for name in REFERENCES if name in row.values]
        column = column or next(iter(found), None)
        if found != [column]:
            raise DatasetError(
                f"{row.label}: has {' and '.join(found) or 'no references'}; allowed is one column "
                f"of {', '.join(REFERENCES)}, the same in every line."
            )
        query = f"q{number}" if prompt else picture
        queries[query], qrels[query] = prompt, {picture: 1}
        references[query] = row.texts(column)
    return {
        "query_ids": [*queries],
        "queries": [*queries.values()],
        "qrels": qrels,
        "references": references,
        "are_answers": column in ANSWER,
    }
