"""From data frames to what the template prints: cells, notes and the data behind the buttons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.names import CONTROL, REFERENCE_VARIANT, is_peer
from colport.base.redaction import redacted
from colport.report import formatting as fmt
from colport.report.columns import ROW_HEADERS, Shown, column
from colport.report.section import Material, Section
from colport.report.sections.embeddings import embeddings_table
from colport.report.sections.scenarios import shown_rows
from colport.tables import COLUMNS, full_rows, text_table
from colport.tables.recommendation import SIGNIFICANCE

_LONG_NAME = 24


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a short note after it, its classes, and whether it heads its row."""

    text: str
    note: str = ""
    classes: str = ""
    header: bool = False


@dataclass(frozen=True)
class Header:
    """One column header."""

    label: str
    classes: str


@dataclass(frozen=True)
class Row:
    """One table row; ``classes`` marks a failed, unsupported, reference or recommended one."""

    cells: list[Cell]
    classes: str


@dataclass(frozen=True)
class TableView:
    """One table as the template prints it.

    Attributes:
        name: The table's name in the output contract.
        title: Heading.
        caption: What is measured, which direction is better, from which samples.
        headers: One a column.
        rows: In the table's order.
        data: ``columns``, ``numeric``, ``better``, ``shown`` (at first) and
            ``rows`` (the CSV file's texts).
        unsupported: Number of rows marked so; they are not visible at first unless all are.
    """

    name: str
    title: str
    caption: str
    headers: list[Header]
    rows: list[Row]
    data: Mapping[str, Any]
    unsupported: int


def section(material: Material) -> Section:
    """Every table that has a title; beyond those of the contract only what has rows."""
    retrieval = material.tables["retrieval"]
    tables = {**material.tables, "embeddings": embeddings_table(retrieval)}
    tables["retrieval"] = full_rows(retrieval)
    if "scenarios" in tables:
        tables["scenarios"] = shown_rows(tables["scenarios"])
    views = [
        table_view(name, tables[name])
        for name in TABLES
        if TABLES[name].title and (name in COLUMNS or len(tables.get(name, ())))
    ]
    return Section("tables", "Tables", "Tables", "tables.html", {"views": views})


def table_view(name: str, table: pd.DataFrame) -> TableView:
    """The view of one table; ``table`` has at least the columns of the contract."""
    schema = TABLES[name]
    names = [str(label) for label in table.columns]
    columns = [
        column(label, pd.api.types.is_numeric_dtype(table[label].dtype)) for label in table.columns
    ]
    classes = [
        " ".join(filter(None, ("n" * item.numeric, _text_class(label))))
        for label, item in zip(names, columns, strict=True)
    ]
    texts = text_table(table)
    rows = [
        _row(dict(zip(names, values, strict=True)), columns, classes)
        for values in table.astype(object).itertuples(index=False, name=None)
    ]
    return TableView(
        name=name,
        title=schema.title,
        caption=schema.caption,
        headers=[Header(item.label, css) for item, css in zip(columns, classes, strict=True)],
        rows=rows,
        data={
            "name": name,
            "columns": names,
            "numeric": [item.numeric for item in columns],
            "better": [item.better for item in columns],
            "shown": [label in schema.shown for label in names],
            "rows": [[redacted(cell) for cell in row] for row in texts.to_numpy().tolist()],
        },
        unsupported=sum(row.classes == "unsupported" for row in rows),
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the ``script`` element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def delta_note(delta: Any, p_value: Any) -> str:
    """What a difference to PyTorch means: ``within noise``, ``loss``, ``gain`` or nothing."""
    if fmt.is_missing(delta) or fmt.is_missing(p_value):
        return ""
    if p_value > SIGNIFICANCE:
        return "within noise"
    if delta == 0:
        return ""
    return "loss" if delta < 0 else "gain"


def _text_class(label: str) -> str:
    return "long" if label in ("reason", "verdict", "change") else ""


def _row(values: Mapping[str, Any], columns: list[Shown], classes: list[str]) -> Row:
    cells = []
    for (label, value), item, css in zip(values.items(), columns, classes, strict=True):
        text, note, mark = _content(label, value, values, item)
        if label in ROW_HEADERS and len(text) > _LONG_NAME:
            mark = f"{mark} name".strip()
        cells.append(Cell(text, note, f"{css} {mark}".strip(), label in ROW_HEADERS))
    return Row(cells, _row_class(values))


def _content(
    label: str, value: Any, values: Mapping[str, Any], item: Shown
) -> tuple[str, str, str]:
    if label in ("passed", "parity_passed"):
        if fmt.is_missing(value):
            return fmt.MISSING, "", ""
        return ("passed", "", "good") if value else ("✕ failed", "", "bad")
    if label == "model" and value == CONTROL:
        return "baseline", "", ""
    if label == "recommended":
        return ("✓ ship", "", "good") if value is not pd.NA and value else ("", "", "")
    if label == "judgement":
        return fmt.text(value), "", {"worse": "bad", "better": "good"}.get(value, "")
    if label == "status":
        mark = {"failed": "✕ failed", "unsupported": "○ unsupported"}.get(value, value)
        return fmt.text(mark), "", "bad" if value == "failed" else ""
    if label == "ndcg_at_5_delta":
        note = delta_note(value, values.get("p_value"))
        return item.show(value), note, "bad" if note == "loss" else ""
    return item.show(value), "", ""


def _row_class(values: Mapping[str, Any]) -> str:
    passed = values.get("passed", values.get("parity_passed"))
    recommended = values.get("recommended")
    if not fmt.is_missing(recommended) and recommended:
        return "chosen"
    if values.get("status") == "failed" or (not fmt.is_missing(passed) and not passed):
        return "failed"
    if values.get("status") == "unsupported":
        return "unsupported"
    variant = values.get("variant", "")
    beside = variant == REFERENCE_VARIANT or is_peer(variant) or values.get("model") == CONTROL
    return "reference" if beside else ""
