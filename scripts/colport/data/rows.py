"""Tables of a dataset folder, unpacked with ``datasets`` and checked column by column.

``datasets`` takes longer to import than a table to read: only who finds no copy of a table does.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.base.errors import ColPortError, DatasetError, read_of
from colport.base.files import read_json, state_hash, write_json
from colport.base.foreign import is_inside
from colport.base.redaction import plain
from colport.data.base import Lazy
from colport.data.images import FORMATS, decode, decode_errors
from colport.data.parquet import RATIO, unpacks_to_too_much
from colport.data.repositories import Repository

if TYPE_CHECKING:
    import pyarrow
    from PIL.Image import Image

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
STRINGS = ("string", "large_string", "string_view")
IDS = (*STRINGS, *INTEGERS)
SCORES = ("bool", *INTEGERS, "float16", "float32", "float64", *STRINGS)

_NO_ROWS = "corresponds to no data"
"""What ``datasets`` says of a split without rows."""

_INDEX = "colport.json"
"""File of a copy that names its parts, its types and how many rows it has."""


@dataclass(frozen=True, eq=False)
class Table:
    """One split of one configuration of a dataset.

    Attributes:
        label: What messages call it: dataset, configuration and split.
        data: The rows, images not decoded.
        types: Type of each column, as ``datasets`` calls it; ``image`` for encoded images.
        folder: Where files that a row names lie.
    """

    label: str
    data: pyarrow.Table
    types: Mapping[str, str]
    folder: Path

    def name(self, *spellings: str) -> str:
        """The one of ``spellings`` that is a column.

        Raises:
            DatasetError: None of them is, or two are and differ.
        """
        columns = [spelling for spelling in spellings if spelling in self.data.column_names]
        for other in columns[1:]:
            pair = (self.data.column(name).to_pylist() for name in (columns[0], other))
            for row, (one, two) in enumerate(zip(*pair, strict=True)):
                if str(one) != str(two):
                    raise DatasetError(
                        f"{self.label}: columns {columns[0]} and {other} differ in row {row}; "
                        "allowed is one of them."
                    )
        if columns:
            return columns[0]
        found = ", ".join(self.data.column_names)
        raise DatasetError(
            f"{self.label}: column {' or '.join(spellings)} is missing; found {found}."
        )

    def texts(self, *columns: str) -> list[str] | None:
        """The first of ``columns`` that holds text, null as an empty one; ``None`` if none does."""
        for column in columns:
            if self.types.get(column) in STRINGS:
                return [text or "" for text in self.values(column, STRINGS, nullable=True)]
        return None

    def values(self, column: str, types: Sequence[str], *, nullable: bool = False) -> list[Any]:
        """All values of a column.

        Raises:
            DatasetError: The column is of a type not in ``types``, or holds a null.
        """
        if (found := self.types[column]) not in types:
            raise DatasetError(
                f"{self.label}: column {column} is {found}; allowed is {', '.join(types)}."
            )
        fault = f"column {column} holds a text that is not UTF-8 ({{}})"
        with read_of(DatasetError, self.label, fault, UnicodeDecodeError):
            values = self.data.column(column).to_pylist()
        if not nullable and None in values:
            raise DatasetError(
                f"{self.label}: column {column} is null in row {values.index(None)}; "
                "every row needs a value."
            )
        return values

    def ids(self, column: str, *, unique: bool = False) -> list[str]:
        """All values of an id column as strings.

        Raises:
            DatasetError: See :meth:`values`; or an id occurs twice although ``unique``.
        """
        ids = [str(value) for value in self.values(column, IDS)]
        if unique:
            rows: dict[str, int] = {}
            for row, name in enumerate(ids):
                if rows.setdefault(name, row) != row:
                    raise DatasetError(
                        f"{self.label}: column {column} has {name!r} in rows {rows[name]} and "
                        f"{row}; ids must be unique."
                    )
        return ids


class Pages(Lazy):
    """Pages of a table as PIL RGB images, each decoded when it is indexed; slices are lazy too."""

    def __init__(self, table: Table, column: str, rows: Sequence[int] | None = None) -> None:
        """Check the column's type; ``rows`` picks and orders the pages.

        Raises:
            DatasetError: The column does not hold encoded images, or a row is null.
        """
        if (found := table.types[column]) != "image":
            raise DatasetError(
                f"{table.label}: column {column} is {found}; allowed is image (bytes and path)."
            )
        self._table, self._column = table, column
        self._data = table.data.column(column)
        if self._data.null_count:
            row = self._data.is_null().index(True).as_py()
            raise DatasetError(
                f"{table.label}: column {column} is null in row {row}; every row needs an image."
            )
        super().__init__(range(len(table.data)) if rows is None else rows, self._decode)

    def are_same(self, first: int, second: int) -> bool:
        """Whether two pages are one, by their files or else by their pixels."""
        rows = (self._places[first], self._places[second])
        one, other = (self._bytes(row) for row in rows)
        # Pillow's == is of two files' remarks, too.
        return one == other or len({(p.size, p.tobytes()) for p in map(self._decode, rows)}) == 1

    def _decode(self, row: int) -> Image:
        try:
            return decode(io.BytesIO(self._bytes(row)))
        except decode_errors() as error:
            raise DatasetError(
                f"{self._table.label}: the image in row {row} (column {self._column}) cannot be "
                f"decoded ({error}); allowed are {', '.join(FORMATS)}."
            ) from error

    def _bytes(self, row: int) -> bytes:
        """An image's file. ``datasets`` would open any path or address that a row names."""
        value = self._data[row].as_py()
        if value["bytes"] is not None:
            return value["bytes"]
        path = value["path"] or ""
        file = self._table.folder / path
        if not is_inside(self._table.folder, path) or not file.is_file():
            raise DatasetError(
                f"{self._table.label}: the image in row {row} (column {self._column}) has no bytes "
                f"and its path {path!r} is not a file inside {self._table.folder}."
            )
        return file.read_bytes()


def load_table(repository: Repository, config: str | None, split: str) -> Table:
    """Read one split of one configuration (``None`` for the only one) of a dataset.

    Raises:
        DatasetError: The split cannot be read, or is empty.
    """
    label = repository.label(config, split)
    files = repository.files(config, split)
    cache = _cache_folder(files)
    copied = f" from its copy in {cache}" if (cache / _INDEX).exists() else ""
    try:
        if not copied:
            _copy(label, files, cache)
        return Table(label, *_copied(cache), repository.folder)
    except (ColPortError, MemoryError):
        raise
    except Exception as error:  # it trusts the types that a file claims to have
        if _NO_ROWS in str(error):
            raise DatasetError(f"{label}: has no rows; at least one is needed.") from error
        # The cause of a generation error says more.
        is_told = error.__cause__ is not None and type(error).__name__ == "DatasetGenerationError"
        reason = plain(error.__cause__ if is_told else error)
        raise DatasetError(f"{label}: cannot be read{copied} ({reason}).") from error


def _copy(label: str, files: Sequence[Path], cache: Path) -> None:
    """Let ``datasets`` write the rows so that they can be mapped; the index comes last."""
    import datasets

    for file in files:
        if (most := unpacks_to_too_much(file)) is not None:
            raise DatasetError(
                f"{label}: {file.name} ({file.stat().st_size} bytes) unpacks to more than {most} "
                f"bytes; allowed are 1 GiB, or {RATIO} times its size if that is more."
            )
    names = [glob.escape(str(file.resolve())) for file in files]
    data = datasets.Dataset.from_parquet(names, cache_dir=str(cache))
    parts = [os.path.relpath(part["filename"], cache) for part in data.cache_files]
    types = {column: _type(feature) for column, feature in data.features.items()}
    write_json(cache / _INDEX, {"parts": parts, "rows": len(data), "types": types})


def _copied(cache: Path) -> tuple[pyarrow.Table, Mapping[str, str]]:
    """The rows of a copy, mapped, and the type of each column."""
    import pyarrow

    index = read_json(cache / _INDEX)
    parts = [pyarrow.memory_map(str(cache / name)) for name in index["parts"]]
    rows = pyarrow.concat_tables([pyarrow.ipc.open_stream(part).read_all() for part in parts])
    if len(rows) != index["rows"]:
        raise ValueError(f"it has {len(rows)} of {index['rows']} rows")
    return rows, index["types"]


def _type(feature: Any) -> str:
    # Of a ClassLabel that of places in a list of names would be told, not of the names.
    found = str(feature if hasattr(feature, "names") else getattr(feature, "dtype", feature))
    is_encoded = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    return "image" if is_encoded or found == "PIL.Image.Image" else found


def _cache_folder(files: Sequence[Path]) -> Path:
    """Where copies are kept: a folder for each version of ``datasets`` and state of the files.

    Its own cache does not notice that a file under the same name has changed.
    """
    from huggingface_hub.constants import HF_HOME

    place = os.environ.get("HF_DATASETS_CACHE", f"{HF_HOME}/datasets")
    return Path(place, "colport", version("datasets"), state_hash(files))
