"""A table as the page shows it: each column by its entry in the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from colport.base.columns import COLUMNS, Column
from colport.report.formatting import FORMATS
from colport.tables import text_table

_HEADING = ("model", "variant", "provider", "kind")


def column(name: str, numeric: bool) -> Column:
    """A column's entry; one that is not in the schema is shown under its own name.

    Args:
        name: ``{column}_before`` and ``{column}_change`` are its figure in another run and the
            change since: a difference of NDCG@5, of others a share.
        numeric: Whether a column that is not in the schema holds numbers.
    """
    stem, _, end = name.rpartition("_")
    found = COLUMNS.get(name) or Column(name, type="float" if numeric else "text")
    if stem in COLUMNS and end in ("before", "change"):
        found = replace(COLUMNS[stem], name=name, label=f"{COLUMNS[stem].label}, {end}")
        if end == "change":
            found = replace(found, format="signed3" if stem == "ndcg_at_5" else "change")
    return found


class ShownTable:
    """The rows of a table, or those behind a chart.

    Attributes:
        columns: Their entries in the schema.
        values: The cells themselves, row by row.
        shown: The cells as a reader wants them.
        raw: The cells as they stand in the CSV file.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.columns = [
            column(str(name), pd.api.types.is_numeric_dtype(frame[name].dtype)) for name in frame
        ]
        self.values = list(frame.astype(object).itertuples(index=False, name=None))
        shows = [FORMATS[item.format] for item in self.columns]
        self.shown = [
            [show(value) for show, value in zip(shows, row, strict=True)] for row in self.values
        ]
        self.raw = text_table(frame).to_numpy().tolist()

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any] | tuple], names: Sequence[str]) -> ShownTable:
        """From rows as dicts or tuples, and the columns to show of them."""
        return cls(pd.DataFrame(rows, columns=list(names)))

    @property
    def names(self) -> list[str]:
        """Columns, as in the CSV file."""
        return [item.name for item in self.columns]

    def describe(self, index: int, note: str = "") -> str:
        """A row in words: what it is about, then a figure each, then the note."""
        cells = list(zip(self.columns, self.shown[index], strict=True))
        heading = " ".join(text for item, text in cells if item.name in _HEADING)
        figures = [f"{item.label} {text}" for item, text in cells if item.name not in _HEADING]
        return "; ".join(part for part in (heading, *figures, note) if part)
