"""Tables of a dataset folder, read with ``datasets`` and checked column by column."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.errors import DatasetError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
STRINGS = ("string", "large_string", "string_view")
IDS = (*STRINGS, *INTEGERS)

_NO_ROWS = "corresponds to no data"
"""What ``datasets`` says of a split without rows."""


@dataclass(frozen=True, eq=False)
class Table:
    """One split of one configuration of a dataset.

    Attributes:
        label: What messages call it: dataset, configuration and split.
        data: The rows, images not decoded.
    """

    label: str
    data: Dataset

    def name(self, *spellings: str) -> str:
        """The one of ``spellings`` that is a column.

        Raises:
            DatasetError: None of them is.
        """
        for spelling in spellings:
            if spelling in self.data.column_names:
                return spelling
        found = ", ".join(self.data.column_names)
        raise DatasetError(
            f"{self.label}: column {' or '.join(spellings)} is missing; found {found}."
        )

    def values(self, column: str, types: Sequence[str], *, nullable: bool = False) -> list[Any]:
        """All values of a column.

        Raises:
            DatasetError: The column is of a type not in ``types``, or holds a null.
        """
        found = getattr(self.data.features[column], "dtype", None)
        if found not in types:
            raise DatasetError(
                f"{self.label}: column {column} is {found or self.data.features[column]}; "
                f"allowed is {', '.join(types)}."
            )
        values = self.data.select_columns([column])[:][column]
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


class Pages(Sequence["Image"]):
    """Pages of a table as PIL RGB images, each decoded when it is indexed; slices are lazy too."""

    def __init__(self, table: Table, column: str, rows: Sequence[int] | None = None) -> None:
        """Check the column's type; ``rows`` picks and orders the pages.

        Raises:
            DatasetError: The column does not hold encoded images, or a row is null.
        """
        from datasets import Image

        features = table.data.features[column]
        encoded = isinstance(features, dict) and {"bytes", "path"} <= features.keys()
        if not (encoded or isinstance(features, Image)):
            found = getattr(features, "dtype", features)
            raise DatasetError(
                f"{table.label}: column {column} is {found}; allowed is image "
                "(encoded bytes and path)."
            )
        self._table, self._column = table, column
        self._data = table.data.select_columns([column])
        if not encoded:
            self._data = self._data.cast_column(column, Image(decode=False))
        values = self._data.data.column(column)
        if values.null_count:
            row = values.is_null().index(True).as_py()
            raise DatasetError(
                f"{table.label}: column {column} is null in row {row}; every row needs an image."
            )
        self._rows = range(len(table.data)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Pages(self._table, self._column, self._rows[index])
        return self._decode(self._rows[index])

    def __iter__(self) -> Iterator[Image]:
        return (self._decode(row) for row in self._rows)

    def _decode(self, row: int) -> Image:
        import datasets
        import PIL.Image

        try:
            return datasets.Image(mode="RGB").decode_example(self._data[row][self._column])
        # What Pillow's decoders raise on damaged files.
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            IndexError,
            OverflowError,
            struct.error,
            PIL.Image.DecompressionBombError,
        ) as error:
            raise DatasetError(
                f"{self._table.label}: the image in row {row} (column {self._column}) cannot be "
                f"decoded ({error}); allowed is any image file that Pillow reads."
            ) from error


def config_names(dataset: str, folder: Path) -> list[str]:
    """Configurations that a dataset folder declares.

    Raises:
        DatasetError: The folder holds nothing that ``datasets`` reads.
    """
    import datasets

    try:
        return datasets.get_dataset_config_names(str(folder.resolve()))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{dataset}: {folder} is not a dataset ({_sentence(error)}).") from error


def load_table(dataset: str, folder: Path, config: str | None, split: str) -> Table:
    """Read one split of one configuration (``None`` for the default one) of a dataset folder.

    Raises:
        DatasetError: The split cannot be read, or is empty.
    """
    import datasets

    label = ", ".join(filter(None, [dataset, config and f"config {config}", f"split {split}"]))
    try:
        data = datasets.load_dataset(
            str(folder.resolve()), config, split=split, cache_dir=_cache_folder(folder)
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if _NO_ROWS in str(error):
            raise DatasetError(f"{label}: has no rows; at least one is needed.") from error
        raise DatasetError(f"{label}: cannot be read ({_sentence(error)}).") from error
    return Table(label, data)


def _cache_folder(folder: Path) -> str:
    """Where ``datasets`` keeps its copy: a folder of its own for each state of the files.

    Its own cache does not notice that a file under the same name has changed.
    """
    import datasets

    state = hashlib.sha256()
    for file in sorted(path for path in folder.resolve().rglob("*") if path.is_file()):
        facts = file.stat()
        state.update(f"{file}:{facts.st_size}:{facts.st_mtime_ns};".encode())
    return str(Path(datasets.config.HF_DATASETS_CACHE, "colport", state.hexdigest()[:16]))


def _sentence(error: BaseException) -> str:
    """The first line of a library's message; the cause of a generation error says more."""
    if error.__cause__ is not None and type(error).__name__ == "DatasetGenerationError":
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
