"""The section "Tables": from data frames to what the template prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.names import CONTROL, REFERENCE_VARIANT, is_peer
from colport.report import formatting as fmt
from colport.report.columns import ShownTable
from colport.report.section import DIFFERENCE, Material, delta_note
from colport.report.sections.scenarios import shown_rows
from colport.tables import COLUMNS, full_rows

ROW_HEADERS = ("model", "variant", "provider", "graph", "row")

_LONG_NAME = 24
_SENTENCES = ("reason", "verdict", "change", "source")


def section(material: Material) -> dict[str, Any]:
    """Every table that has a title; beyond those of the contract only what has rows."""
    tables = {**material.tables, "retrieval": full_rows(material.tables["retrieval"])}
    tables["scenarios"] = shown_rows(tables["scenarios"])
    shown = [name for name in TABLES if TABLES[name].title]
    return {
        "views": [
            table_view(name, tables[name]) for name in shown if name in COLUMNS or len(tables[name])
        ]
    }


def table_view(name: str, frame: pd.DataFrame) -> dict[str, Any]:
    """One table as the template prints it.

    Args:
        name: The table's name in the schema.
        frame: Has at least the columns of the schema.

    Returns:
        ``name``, ``schema``, ``columns`` (each with its classes), ``rows`` (the class of a failed,
        unsupported, reference or recommended one, and its cells: text, a short note after it,
        classes, and whether the cell heads its row), ``unsupported`` (rows marked so, which are not
        visible at first unless all are) and ``data`` (what is behind the buttons, the CSV file's
        texts among it).
    """
    table, shown = ShownTable(frame), set(TABLES[name].shown)
    shown -= {
        further for further in TABLES[name].further if frame.get(further, pd.Series()).isna().all()
    }
    classes = [
        " ".join(filter(None, ("n" * item.numeric, "long" * (item.name in _SENTENCES))))
        for item in table.columns
    ]
    rows = []
    for values, texts in zip(table.values, table.shown, strict=True):
        row = dict(zip(table.names, values, strict=True))
        cells = [
            _cell(label, row, text, css)
            for label, text, css in zip(row, texts, classes, strict=True)
        ]
        rows.append((_row_class(row), cells))
    return {
        "name": name,
        "schema": TABLES[name],
        "columns": list(zip(table.columns, classes, strict=True)),
        "rows": rows,
        "unsupported": sum(css == "unsupported" for css, _ in rows),
        "data": {
            "name": name,
            "columns": table.names,
            "numeric": [item.numeric for item in table.columns],
            "better": [item.better for item in table.columns],
            "shown": [label in shown for label in table.names],
            "rows": table.raw,
        },
    }


def _cell(label: str, row: Mapping[str, Any], text: str, css: str) -> tuple[str, str, str, bool]:
    text, note, mark = _marked(label, row, text)
    long = "name" if label in ROW_HEADERS and len(text) > _LONG_NAME else ""
    return text, note, " ".join(filter(None, (css, mark, long))), label in ROW_HEADERS


def _marked(label: str, row: Mapping[str, Any], text: str) -> tuple[str, str, str]:
    """A cell's text, its note and the class of what is good or bad."""
    value = row[label]
    if label in ("passed", "parity_passed") and not fmt.is_missing(value):
        return ("passed", "", "good") if value else ("✕ failed", "", "bad")
    if label == "recommended":
        return ("✓ ship", "", "good") if fmt.is_true(value) else ("", "", "")
    if label == "model" and value == CONTROL:
        return "baseline", "", ""
    if label == "status":
        mark = {"failed": "✕ failed", "unsupported": "○ unsupported"}.get(value, text)
        return mark, "", "bad" if value == "failed" else ""
    if label == "judgement":
        return text, "", {"worse": "bad", "better": "good"}.get(value, "")
    if label == "ndcg_at_5_delta":
        note = delta_note(*map(row.get, DIFFERENCE))
        return text, note, "bad" if note == "loss" else ""
    if label == "published_delta":
        within = row["score_low"] <= row["published"] <= row["score_high"]
        note = "within noise" if within else "below" if value < 0 else "above"
        return text, note, "bad" if note == "below" else ""
    return text, "", ""


def _row_class(values: Mapping[str, Any]) -> str:
    passed = values.get("passed", values.get("parity_passed"))
    if fmt.is_true(values.get("recommended")):
        return "chosen"
    if values.get("status") == "failed" or (not fmt.is_missing(passed) and not passed):
        return "failed"
    if values.get("status") == "unsupported":
        return "unsupported"
    variant = values.get("variant", "")
    beside = variant == REFERENCE_VARIANT or is_peer(variant) or values.get("model") == CONTROL
    return "reference" if beside else ""
