"""A chart as the template prints it: the drawing, the table behind it, its CSV file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from colport.report.charts.drawing import Drawing
from colport.report.columns import ShownTable


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
        legend: Colours that only this chart has, by what they stand for.
        finding: What it shows, one sentence, printed below it.
    """

    key: str
    subject: str
    title: str
    caption: str
    description: str
    drawing: Drawing
    table: ShownTable
    legend: Mapping[str, str] = field(default_factory=dict)
    finding: str = ""

    @property
    def points(self) -> list[tuple[Markup, str]]:
        """Places to point at, each with its row in words."""
        return [(hit.shape, self.table.describe(hit.row, hit.note)) for hit in self.drawing.hits]

    @property
    def data(self) -> dict[str, Any]:
        """The CSV file's content."""
        return {"name": self.key, "columns": self.table.names, "rows": self.table.raw}
