"""A chart as the template prints it: the drawing, the table behind it, its CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from colport.base.redaction import redacted
from colport.report.charts.drawing import Drawing
from colport.report.columns import column
from colport.tables import text_table

_HEADING = ("model", "variant", "provider", "kind")


@dataclass(frozen=True)
class ChartTable:
    """The rows behind a chart.

    Attributes:
        names: Columns, as in the CSV file.
        labels: Their headers.
        numeric: Which of them hold numbers.
        shown: The cells as a reader wants them.
        raw: The cells as they stand in the CSV file.
    """

    names: list[str]
    labels: list[str]
    numeric: list[bool]
    shown: list[list[str]]
    raw: list[list[str]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> ChartTable:
        """From rows as dicts; columns are shown as in the tables of the report."""
        frame = pd.DataFrame([dict(row) for row in rows], columns=list(names))
        columns = [column(name, pd.api.types.is_numeric_dtype(frame[name])) for name in names]
        shown = [
            [item.show(value) for item, value in zip(columns, values, strict=True)]
            for values in frame.astype(object).itertuples(index=False, name=None)
        ]
        raw = [[redacted(cell) for cell in row] for row in text_table(frame).to_numpy().tolist()]
        labels, numeric = [item.label for item in columns], [item.numeric for item in columns]
        return cls(list(names), labels, numeric, shown, raw)

    def describe(self, index: int, note: str = "") -> str:
        """A row in words: what it is about, then a figure each, then the note."""
        cells = list(zip(self.names, self.labels, self.shown[index], strict=True))
        heading = " ".join(text for name, _, text in cells if name in _HEADING)
        figures = [f"{label} {text}" for name, label, text in cells if name not in _HEADING]
        return "; ".join(part for part in (heading, *figures, note) if part)


@dataclass(frozen=True)
class Swatch:
    """One entry of a chart's own legend."""

    name: str
    colour: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: Unique in the page: its element ids and file names begin with it.
        subject: What it is about, mostly a model.
        title: What is drawn, and of what.
        caption: The heading above it.
        description: For those who cannot see the drawing.
        drawing: The SVG.
        table: The rows behind it.
        legend: Colours that only this chart has.
        finding: What it shows, one sentence, printed below it.
    """

    key: str
    subject: str
    title: str
    caption: str
    description: str
    drawing: Drawing
    table: ChartTable
    legend: Sequence[Swatch] = ()
    finding: str = ""

    @property
    def points(self) -> list[tuple[Markup, str]]:
        """Places to point at, each with its row in words."""
        return [(hit.shape, self.table.describe(hit.row, hit.note)) for hit in self.drawing.hits]

    @property
    def data(self) -> dict[str, Any]:
        """The CSV file's content."""
        return {"name": self.key, "columns": self.table.names, "rows": self.table.raw}
