"""Tables as data frames: from leaf records, to CSV files and back.

Every leaf record (one JSON file of a stage) carries ``rows``: dicts with the columns of its table.
Four of the five tables of the output contract concatenate them; ``summary`` is computed from those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colport.base import columns as schema
from colport.base.columns import TABLES
from colport.base.errors import ArtifactError, read_of
from colport.base.files import atomic_path
from colport.base.names import FULL, REFERENCE_VARIANT

STAGES = ("export", "parity", "retrieval", "latency")

COLUMNS = {name: TABLES[name].columns for name in (*STAGES, "summary")}
"""The columns of the output contract, in order; a table may have further ones after them."""

KEYS = ["model", "variant", "provider"]
"""Columns that say what a row is about."""

STATUSES = ("ok", "failed", "unsupported")

_FORMULA = ("=", "+", "-", "@", "\t")


def flatten(name: str, records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of all records, in their order, as one table.

    Args:
        name: Of a table of :data:`colport.base.columns.TABLES`.
        records: Leaf records; each has ``rows``, a list of dicts with a ``status``.

    Returns:
        The table's columns in order, then further ones that a row has. Missing text is
        ``""``, a missing number NaN or ``<NA>``, a missing truth value ``<NA>``.

    Raises:
        ArtifactError: A record has no ``rows``, a row misses a column, has an unknown ``status``
            or a value that its column cannot hold.
    """
    rows: list[Mapping[str, Any]] = []
    for number, record in enumerate(records, start=1):
        found = record.get("rows")
        if not isinstance(found, list):
            raise ArtifactError(
                f"{name} record {number}: 'rows' is {type(found).__name__}; a list is needed."
            )
        for row in found:
            _check_row(name, number, row)
        rows += found
    given = dict.fromkeys(key for row in rows for key in row)
    known = (column for column in TABLES[name].further if column in given)
    columns = dict.fromkeys([*TABLES[name].columns, *known, *given])
    frame = pd.DataFrame([dict(row) for row in rows], columns=[*columns], dtype=object)
    return typed(name, frame)


def typed(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the data type of each column of the schema; that of others is inferred.

    Raises:
        ArtifactError: A column has a value that it cannot hold.
    """
    columns = {}
    for column in frame.columns:
        where = f"{name} table, column {column!r}"
        with read_of(ArtifactError, where, damaged=(TypeError, ValueError)):
            columns[column] = _typed_column(column, frame[column])
    return pd.DataFrame(columns, index=frame.index, columns=frame.columns)


def full_rows(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``retrieval.csv`` without those of smaller forms of embeddings."""
    if "embeddings" not in retrieval:
        return retrieval
    return retrieval[retrieval["embeddings"].isin(["", FULL])]


def runs(table: pd.DataFrame) -> pd.Series:
    """Number of the run of each row of ``latency.csv`` or ``scenarios.csv``.

    PyTorch begins the rows of each run: its own provider's name does not say which run it is.
    """
    reference = table["variant"] == REFERENCE_VARIANT
    return (reference & ~reference.shift(fill_value=False)).cumsum().rename("run")


def beside_reference(latency: pd.DataFrame) -> pd.DataFrame:
    """``latency.csv`` with what PyTorch took, and what each row takes by its speed-up.

    Returns:
        Further columns, missing where PyTorch did not run: ``reference`` (its provider in the row's
        own run) and ``reference_ms`` (its p50 there), and ``cost_ms``: PyTorch's p50, the median of
        all runs on that provider, over the row's speed-up. By it, rows of one reference are in the
        order of their speed-ups, and those of several in that of their times. The row's own p50
        where it has no speed-up.
    """
    case = ["model", "kind", "batch_size"]
    latency = latency.assign(run=runs(latency)).reset_index(drop=True)
    known = latency[(latency["variant"] == REFERENCE_VARIANT) & (latency["status"] == "ok")]
    known = known.rename(columns={"provider": "reference", "p50_ms": "reference_ms"})
    known = known.drop_duplicates([*case, "run"])[[*case, "run", "reference", "reference_ms"]]
    found = latency.merge(known, on=[*case, "run"], how="left")
    median_ms = found.groupby([*case, "reference"])["reference_ms"].transform("median")
    found["cost_ms"] = (median_ms / found["speedup_vs_pytorch"]).fillna(found["p50_ms"])
    return found


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path | str) -> None:
    """Write each table as ``{folder}/{name}.csv``, each file all or nothing.

    Floats have six significant digits, truth values are ``true`` and ``false``, what is missing
    is empty. A text that a spreadsheet would take for a formula has an apostrophe in front, as
    OWASP advises ("CSV Injection").
    """
    for name, table in tables.items():
        with atomic_path(Path(folder) / f"{name}.csv") as temporary:
            text_table(table).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_tables(folder: Path | str) -> dict[str, pd.DataFrame]:
    """Read the five tables that :func:`write_tables` wrote, in the order of :data:`COLUMNS`.

    Raises:
        ArtifactError: A file is missing, unreadable or lacks a column.
    """
    return {name: read_table(Path(folder) / f"{name}.csv") for name in COLUMNS}


def read_table(path: Path, *only: str) -> pd.DataFrame:
    """Read ``{name}.csv``, a table of the schema, or some of its columns.

    Raises:
        ArtifactError: The file is missing, unreadable or lacks a column.
    """
    needed = only or TABLES[path.stem].columns
    with read_of(ArtifactError, path, "is not a CSV table ({})"):
        frame = pd.read_csv(
            path,
            usecols=(lambda column: column in only) if only else None,
            dtype={
                column.name: object for column in schema.COLUMNS.values() if column.type == "text"
            },
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8",
        )
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise ArtifactError(f"{path}: misses the column(s) {', '.join(missing)}.")
    return typed(path.stem, frame)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: ``None``, NaN or ``<NA>``."""
    return not isinstance(value, list | tuple | dict) and bool(pd.isna(value))


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as the text that it has in the CSV file."""
    return table.astype(object).map(_cell_text).rename(columns=str).astype(object)


def _check_row(name: str, number: int, row: Any) -> None:
    if not isinstance(row, Mapping):
        raise ArtifactError(f"{name} record {number}: a row is {type(row).__name__}, not a dict.")
    where = "/".join(str(row[key]) for key in KEYS if key in row)
    missing = [column for column in TABLES[name].columns if column not in row]
    if missing:
        raise ArtifactError(
            f"{name} record {number} ({where}): a row misses the column(s) {', '.join(missing)}."
        )
    if row["status"] not in STATUSES:
        raise ArtifactError(
            f"{name} record {number} ({where}): status is {row['status']!r}; "
            f"allowed are {', '.join(STATUSES)}."
        )


def _typed_column(column: str, values: pd.Series) -> pd.Series:
    known = schema.COLUMNS.get(column)
    match known and known.type:
        case "text":
            texts = ["" if is_missing(value) else _plain_text(value) for value in values]
            return pd.Series(texts, index=values.index, dtype=object)
        case "boolean":
            return values.astype("boolean")
        case "integer":
            return pd.to_numeric(values.where(values.notna(), None)).astype("Int64")
        case "float":
            return pd.to_numeric(values).astype("float64")
    present = [value for value in values if not is_missing(value)]
    if present and all(pd.api.types.is_bool(value) for value in present):
        return values.astype("boolean")
    if present and all(pd.api.types.is_number(value) for value in present):
        return pd.to_numeric(values)
    return values.astype(object)


def _plain_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell_text(value: Any) -> str:
    if is_missing(value):
        return ""
    if pd.api.types.is_bool(value):
        return "true" if value else "false"
    if pd.api.types.is_float(value):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"
    text = _plain_text(value).replace("\r", " ")  # which readers take for the end of a row
    is_formula = isinstance(value, str) and text.startswith(_FORMULA) and len(text) > 1
    return f"'{text}" if is_formula else text
