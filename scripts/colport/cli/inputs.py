"""Queries and documents that a command runs on: the user's own, or a dataset's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from colport.base.errors import DatasetError, UnsupportedError
from colport.data.base import Lazy
from colport.data.documents import Page, PageReader, PageSettings
from colport.data.judgements import DELIMITERS, LINES, QUERY, read_rows, read_text

_TEXTS = (".txt", ".md")


@dataclass(frozen=True)
class Read:
    """What was read.

    Attributes:
        name: Where from.
        queries: Texts.
        documents: Pillow images or texts.
    """

    name: str
    queries: Sequence[str]
    documents: Sequence[Any]


@dataclass(frozen=True)
class InputOptions:
    """The options of a command: own files, or a dataset in their place.

    Raises:
        typer.BadParameter: Neither is given as a whole, or both are.
    """

    queries: Path | None
    documents: Path | None
    dataset: Path | None
    schema: str

    @classmethod
    def optional(cls, *given: Path | str | None) -> InputOptions | None:
        """None if none of the files is given, for commands that do not always need inputs."""
        return cls(*given) if any(given[:-1]) else None

    def __post_init__(self) -> None:
        own = (self.queries is not None, self.documents is not None)
        if own[0] != own[1] or (self.dataset is None) != own[0]:
            raise typer.BadParameter("give --queries and --documents, or --dataset in their place.")

    def read(self, document_type: str, count: int) -> Read:
        """The first queries and documents.

        Args:
            document_type: ``pages`` or ``passages``; a captioner's ``captions`` are refused.
            count: How many of each at most.

        Raises:
            DatasetError: There are none, or one cannot be read.
            UnsupportedError: The model is a captioner.
        """
        if document_type == "captions":
            raise UnsupportedError(
                "the model is a captioner, which has no queries and documents: a run of the "
                "pipeline compares it with PyTorch, and its variants are not calibrated."
            )
        if self.dataset is None:
            name = f"{self.queries.name} and {self.documents.name}"
            queries = [text for _, text in islice(_lines(self.queries), count)]
            return Read(name, queries, read_documents(self.documents, document_type, count))
        from colport.data.datasets import load_retrieval_dataset

        settings = {"path": str(self.dataset), "schema": self.schema, "documents": document_type}
        loaded = load_retrieval_dataset(self.dataset.name, settings)
        return Read(loaded.name, loaded.queries[:count], loaded.documents[:count])


def read_documents(path: Path, document_type: str, count: int) -> list[Any]:
    """The first documents of :func:`read_items`, read into memory."""
    return list(read_items([path], document_type)[1][:count])


def read_items(paths: Sequence[Path], document_type: str) -> tuple[list[Page], Sequence[Any]]:
    """Every text or page of some files and folders, in the order of their names.

    Args:
        paths: Of passages and queries, text files with one a line, CSV, TSV or JSONL files with a
            column ``text`` or ``query``, or folders of text files; of pages, PDFs, images or
            folders of them, sub-folders included. A TIFF file is as many pages as it holds.
        document_type: ``pages`` or ``passages``.

    Returns:
        Where they lie, a line of a text file as a page of it; and texts, or Pillow images, which
        are read when they are indexed. Of several paths each id begins with its own.

    Raises:
        DatasetError: There are none, one cannot be read, or two have one id.
    """
    reader = PageReader("documents", PageSettings())
    places, texts = [], []
    for path in paths:
        if not path.exists():
            raise DatasetError(f"{path}: cannot be read, as it is not there.")
        if document_type == "passages":
            found, more = map(list, zip(*_texts(path), strict=True))
            texts += more
        else:
            found, _ = reader.find(path, decode=False)
        above = f"{path if path.is_dir() else path.parent}/" if len(paths) > 1 else ""
        places += [replace(place, id=f"{above}{place.id}") for place in found]
    name, times = Counter(place.id for place in places).most_common(1)[0]
    if times > 1:
        raise DatasetError(f"{name}: is named {times} times.")
    return places, texts or Lazy(places, reader.image)


def _texts(path: Path) -> Iterator[tuple[Page, str]]:
    """Where each text of a file or of a folder lies, and what it is."""
    if path.is_dir():
        for file in _files(path):
            text = read_text(str(file), file)
            if not text.strip():
                raise DatasetError(f"{file}: is empty, expected a text.")
            yield Page(file.name, file), text
    else:
        for number, text in _lines(path):
            yield Page(f"{path.name}#{number}", path, number - 1), text


def _files(folder: Path) -> list[Path]:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _TEXTS
        and not file.name.startswith(".")
        and (file.is_file() or not file.exists())
    )
    if not found:
        raise DatasetError(f"{folder}: holds no text file ({', '.join(_TEXTS)}).")
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that holds one, or of each row of a table."""
    if file.suffix.lower() in {*DELIMITERS, LINES}:
        for row in read_rows("texts", file):
            yield int(row.label.rpartition(" ")[2]), row.need(*QUERY)
        return
    if file.suffix.lower() not in _TEXTS:
        allowed = ", ".join((*_TEXTS, *DELIMITERS, LINES))
        raise DatasetError(f"{file}: is no text file; allowed are {allowed}.")
    lines = read_text(str(file), file).split("\n")
    if not any(map(str.strip, lines)):
        raise DatasetError(f"{file}: is empty, expected a text a line.")
    for number, line in enumerate(lines, start=1):
        if text := line.strip():
            yield number, text
