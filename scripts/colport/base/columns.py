"""The columns of every table: one entry a column and one a table, all of them in ``columns.yaml``.

Types of data frames, what a row must have, rows without figures, the report's labels and the
tables of ``results/README.md`` follow from them. A stage takes no more than names from here, so an
edit of a label reruns what makes the tables and the page alone
(:func:`colport.pipeline.sources.loaded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_MEASURED = {"status": "ok", "reason": ""}
_FORMATS = {"text": "text", "integer": "count", "float": "significant", "boolean": "text"}


@dataclass(frozen=True)
class Column:
    """One column, whatever tables it is in.

    Attributes:
        name: In CSV files and records.
        meaning: What it says, with its unit.
        type: ``text``, ``integer``, ``float`` or ``boolean``.
        label: Its header in the report; by default the name in words.
        format: How the report shows a cell, a name of :data:`colport.report.formatting.FORMATS`.
        better: ``higher``, ``lower`` or ``""`` where neither is: the first sort puts it on top.
    """

    name: str
    meaning: str = ""
    type: str = "float"
    label: str = ""
    format: str = ""
    better: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name.replace("_", " ").capitalize())
        object.__setattr__(self, "format", self.format or _FORMATS[self.type])

    @property
    def numeric(self) -> bool:
        """Whether it is right-aligned and sorted as a number."""
        return self.type in ("integer", "float")


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        columns: Names of the columns that it always has, in order.
        further: Those that may follow.
        title: Its heading in the report; empty where it has none there.
        caption: What is measured, which direction is better, from which samples.
        shown: Columns that are visible before the reader asks for all of them.
        meanings: What a column means here, where that is more than its own entry says.
    """

    columns: tuple[str, ...]
    further: tuple[str, ...] = ()
    title: str = ""
    caption: str = ""
    shown: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def all(self) -> tuple[str, ...]:
        """The columns with the further ones after them."""
        return (*self.columns, *self.further)


def _read(file: Path) -> tuple[dict[str, Column], dict[str, Table]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is 8 times as fast
    found = loader(file.read_text(encoding="utf-8")).get_single_data()
    columns = {name: Column(name, **entry) for name, entry in found["columns"].items()}
    tables = {
        name: Table(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
        for name, entry in found["tables"].items()
    }
    return columns, tables


COLUMNS, TABLES = _read(Path(__file__).with_suffix(".yaml"))


def row(table: str, /, **values: Any) -> dict[str, Any]:
    """A row with every column of a table in order; what is not given is ``None``.

    Args:
        table: Its name.
        values: By column; ``status`` is ``ok`` and ``reason`` empty unless they are given.

    Raises:
        KeyError: A value is not a column of the table.
    """
    names = TABLES[table].all
    if unknown := values.keys() - {*names}:
        raise KeyError(*sorted(unknown))
    return {name: values.get(name, _MEASURED.get(name)) for name in names}
