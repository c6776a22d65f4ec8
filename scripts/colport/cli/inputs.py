"""Queries and documents that a command runs on: the user's own, or a dataset's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from colport.base.errors import DatasetError
from colport.data.judgements import read_text


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
            document_type: ``pages`` or ``passages``.
            count: How many of each at most.

        Raises:
            DatasetError: There are none, or one cannot be read.
        """
        if self.dataset is None:
            name = f"{self.queries.name} and {self.documents.name}"
            queries = _lines(self.queries)[:count]
            return Read(name, queries, read_documents(self.documents, document_type, count))
        from colport.data.datasets import load_retrieval_dataset

        settings = {"path": str(self.dataset), "schema": self.schema, "documents": document_type}
        loaded = load_retrieval_dataset(self.dataset.name, settings)
        return Read(loaded.name, loaded.queries[:count], loaded.documents[:count])


def read_documents(path: Path, document_type: str, count: int) -> list[Any]:
    """The first documents of a file or a folder, in the order of their names.

    Args:
        path: Of pages, an image or a folder of them; of passages, a text file with one a line, or
            a folder of text files. A TIFF file is as many pages as it holds.
        document_type: ``pages`` or ``passages``.
        count: Documents to read at most.

    Returns:
        Pillow images, or texts.

    Raises:
        DatasetError: There are none, or one cannot be read.
    """
    if document_type == "passages":
        if not path.is_dir():
            return _lines(path)[:count]
        return [read_text(str(file), file) for file in _files(path, (".txt", ".md"))[:count]]
    from colport.data.documents import IMAGES

    files = _files(path, IMAGES) if path.is_dir() else [path]
    return list(islice((page for file in files for page in _pages(file)), count))


def _pages(file: Path) -> Iterator[Any]:
    """The pages of an image file, as a dataset of the user's own has them."""
    from colport.data.images import open_image, page_count
    from colport.families.pages.images import PageError, as_page, decode_errors

    try:
        with open_image(file) as image:
            for index in range(page_count(image)):
                image.seek(index)
                yield as_page(image)
    except PageError as error:
        raise DatasetError(f"{file}: {error}.") from error
    except decode_errors() as error:
        raise DatasetError(f"{file}: is not an image that can be read ({error}).") from error


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes
        and not file.name.startswith(".")
        and (file.is_file() or not file.exists())
    )
    if not found:
        kind = "text file" if ".txt" in suffixes else "image"
        raise DatasetError(f"{folder}: holds no {kind} ({', '.join(suffixes)}).")
    return found


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in read_text(str(file), file).split("\n")]
    if not (kept := [line for line in lines if line]):
        raise DatasetError(f"{file}: is empty, expected a text a line.")
    return kept
