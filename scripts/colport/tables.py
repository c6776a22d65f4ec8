"""The five tables of the output contract: from leaf records to data frames to CSV and back.

Every leaf record (one JSON file of a stage) carries ``rows``: dicts with the columns of its table.
The four measured tables only concatenate them; ``summary`` is computed from the four others and
names the variant to ship.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

from colport.artifacts import atomic_path
from colport.errors import ArtifactError
from colport.recommendation import REFERENCE_VARIANT, recommend
from colport.retrieval import controls
from colport.retrieval.forms import FULL

COLUMNS: dict[str, tuple[str, ...]] = {
    "export": (
        *("model", "family", "variant", "graph", "opset", "parameters", "nodes", "size_bytes"),
        *("weight_files", "seconds", "peak_rss_mb", "status", "reason"),
    ),
    "parity": (
        *("model", "variant", "provider", "kind", "inputs", "tokens", "max_abs_diff"),
        *("mean_cosine", "min_cosine", "top10_overlap", "tolerance", "passed", "status", "reason"),
        "batch_max_abs_diff",
    ),
    "retrieval": (
        *("model", "variant", "provider", "dataset", "queries", "documents"),
        *("ndcg_at_1", "ndcg_at_5", "ndcg_at_10", "recall_at_1", "recall_at_5", "recall_at_10"),
        *("mrr_at_10", "map", "ndcg_at_5_low", "ndcg_at_5_high", "ndcg_at_5_delta", "p_value"),
        *("status", "reason"),
    ),
    "latency": (
        *("model", "variant", "provider", "kind", "batch_size", "tokens", "image_size"),
        *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "samples", "per_second", "load_ms"),
        *("peak_rss_mb", "speedup_vs_pytorch", "status", "reason"),
    ),
    "summary": (
        *("model", "variant", "provider", "size_mb", "ndcg_at_5", "ndcg_at_5_delta"),
        *("query_p50_ms", "document_p50_ms", "query_speedup", "document_speedup"),
        *("parity_passed", "recommended"),
    ),
}
"""The columns of the output contract, in order; a table may have further ones after them."""

SUMMARY_EXTRA = (
    *("p_value", "status", "verdict", "best_for", "ndcg_at_5_delta_low", "ndcg_at_5_delta_high"),
    *("query_speedup_low", "query_speedup_high", "document_speedup_low", "document_speedup_high"),
)

QUALITY = (
    *("ndcg_at_5", "ndcg_at_5_delta", "p_value"),
    *("ndcg_at_5_delta_low", "ndcg_at_5_delta_high"),
)
"""Figures of :func:`quality`."""

STAGES = ("export", "parity", "retrieval", "latency")

STATUSES = ("ok", "failed", "unsupported")

_TEXT = {
    *("model", "family", "variant", "provider", "graph", "kind", "dataset", "image_size"),
    *("tolerance", "embeddings", "status", "reason", "verdict", "best_for"),
}
_INTEGER = {
    *("opset", "parameters", "nodes", "size_bytes", "folder_bytes", "weight_files", "inputs"),
    *("queries", "documents", "batch_size", "samples"),
}
_BOOLEAN = {"passed", "parity_passed", "recommended"}
_FLOAT = (
    {name for names in (*COLUMNS.values(), SUMMARY_EXTRA) for name in names}
    - _TEXT
    - _INTEGER
    - _BOOLEAN
)


def export_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``export.csv`` from export and quantize records: one row a graph.

    Rows should carry ``folder_bytes`` beside the contract's columns: the size of the whole
    exported folder, in which graphs may share one weights file.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    return flatten("export", records)


def parity_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``parity.csv`` from parity records: one row a model, variant, provider and kind.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    return flatten("parity", records)


def retrieval_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``retrieval.csv`` from score records: one row a model, variant, provider and dataset.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    return flatten("retrieval", records)


def latency_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``latency.csv`` from latency records: one row a contender, kind and batch size.

    The PyTorch reference runs beside the variants in every latency run, so it may appear several
    times: once for each run that it was compared in.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    return flatten("latency", records)


def build(records: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, pd.DataFrame]:
    """All five tables, from the records of the four stages by their names.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    stages = {name: flatten(name, records[name]) for name in STAGES}
    return {"summary": summary_table(**stages), **stages}


def flatten(name: str, records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of all records, in their order, as one table.

    Args:
        name: ``export``, ``parity``, ``retrieval`` or ``latency``.
        records: Leaf records; each has ``rows``, a list of dicts.

    Returns:
        The contract's columns in order, then further ones as they first appear. Missing text is
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
    further = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS[name])
    columns = [*COLUMNS[name], *further]
    return typed(name, pd.DataFrame([dict(row) for row in rows], columns=columns, dtype=object))


def typed(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the data type of each column of the contract; further ones are inferred.

    Raises:
        ArtifactError: A column has a value that it cannot hold.
    """
    columns = {}
    for column in frame.columns:
        try:
            columns[column] = _typed_column(column, frame[column])
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{name} table, column {column!r}: {error}.") from error
    return pd.DataFrame(columns, index=frame.index, columns=frame.columns)


def summary_table(
    export: pd.DataFrame, parity: pd.DataFrame, retrieval: pd.DataFrame, latency: pd.DataFrame
) -> pd.DataFrame:
    """One row a model, variant and provider, PyTorch included, with the recommendation.

    The rule of the recommendation: :func:`colport.recommendation.recommend`.

    Returns:
        The contract's columns, then :data:`SUMMARY_EXTRA`. ``size_mb``: 10**6 bytes of the
        exported folder (``folder_bytes``, else the sum of ``size_bytes``). ``ndcg_at_5`` and its
        delta: means over the model's judged datasets, missing unless all are ``ok``. Latency
        columns: those of the smallest batch size, the median if there are several rows.
        ``p_value``: those of the datasets combined by Stouffer's method, and their intervals of
        the difference as independent normal ones. Speed-ups have the range of their rounds.
        ``status``: the worst of all stages. ``verdict``: why the row is recommended or not, one
        phrase. ``best_for``: the :data:`colport.recommendation.NEEDS` that it is chosen for.
    """
    retrieval = full_rows(retrieval[retrieval["model"] != controls.MODEL])
    measured = {"parity": parity, "retrieval": retrieval, "latency": latency}
    groups = {name: _groups(table, "provider") for name, table in measured.items()}
    folders = _groups(export)
    datasets = {
        model: set(rows["dataset"]) for model, rows in retrieval.groupby("model", sort=False)
    }
    smallest = latency.groupby(["model", "kind"])["batch_size"].min().to_dict()
    rows = []
    for key in _row_keys(export, measured.values()):
        model, variant, provider = key
        folder = folders.get((model, variant), export.iloc[:0])
        found = {name: groups[name].get(key, table.iloc[:0]) for name, table in measured.items()}
        status, verdict = _worst_status([folder, *found.values()])
        row = {"model": model, "variant": variant, "provider": provider, "recommended": False}
        row |= {"size_mb": _folder_mb(folder), "status": status, "verdict": verdict}
        row |= {"parity_passed": _parity_passed(found["parity"])}
        row |= quality(found["retrieval"], datasets.get(model, set()))
        for kind in ("query", "document"):
            row |= _speed(found["latency"], kind, smallest.get((model, kind)))
        rows.append(row)
    for model in dict.fromkeys(row["model"] for row in rows):
        recommend([row for row in rows if row["model"] == model])
    columns = [*COLUMNS["summary"], *SUMMARY_EXTRA]
    return typed("summary", pd.DataFrame(rows, columns=columns, dtype=object))


def full_rows(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``retrieval.csv`` without those of smaller forms of embeddings."""
    if "embeddings" not in retrieval:
        return retrieval
    return retrieval[retrieval["embeddings"].isin(["", FULL])]


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path | str) -> None:
    """Write each table as ``{folder}/{name}.csv``, each file all or nothing.

    Floats have six significant digits, truth values are ``true`` and ``false``, what is missing
    is empty.
    """
    for name, table in tables.items():
        with atomic_path(Path(folder) / f"{name}.csv") as temporary:
            text_table(table).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_tables(folder: Path | str) -> dict[str, pd.DataFrame]:
    """Read the five tables that :func:`write_tables` wrote, in the order of :data:`COLUMNS`.

    Raises:
        ArtifactError: A file is missing, unreadable or lacks a column.
    """
    return {name: _read_table(name, Path(folder) / f"{name}.csv") for name in COLUMNS}


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as the text that it has in the CSV file."""
    columns = [[_cell_text(value) for value in table[column]] for column in table.columns]
    names = [str(column) for column in table.columns]
    return pd.DataFrame(dict(zip(names, columns, strict=True)), columns=names, dtype=object)


def _check_row(name: str, number: int, row: Any) -> None:
    if not isinstance(row, Mapping):
        raise ArtifactError(f"{name} record {number}: a row is {type(row).__name__}, not a dict.")
    where = "/".join(str(row[key]) for key in ("model", "variant", "provider") if key in row)
    missing = [column for column in COLUMNS[name] if column not in row]
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
    if column in _TEXT:
        return pd.Series(
            ["" if _missing(value) else _plain_text(value) for value in values],
            index=values.index,
            dtype=object,
        )
    if column in _BOOLEAN:
        return values.astype("boolean")
    if column in _INTEGER:
        return pd.to_numeric(values.where(values.notna(), None)).astype("Int64")
    if column in _FLOAT:
        return pd.to_numeric(values).astype("float64")
    present = [value for value in values if not _missing(value)]
    if present and all(pd.api.types.is_bool(value) for value in present):
        return values.astype("boolean")
    if present and all(pd.api.types.is_number(value) for value in present):
        return pd.to_numeric(values)
    return values.astype(object)


def _plain_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _missing(value: Any) -> bool:
    return not isinstance(value, list | tuple | dict) and bool(pd.isna(value))


def _cell_text(value: Any) -> str:
    if _missing(value):
        return ""
    if pd.api.types.is_bool(value):
        return "true" if value else "false"
    if pd.api.types.is_float(value):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"
    return _plain_text(value)


def _read_table(name: str, path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, object),
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8",
        )
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: is not a CSV table ({error}).") from error
    missing = [column for column in COLUMNS[name] if column not in frame.columns]
    if missing:
        raise ArtifactError(f"{path}: misses the column(s) {', '.join(missing)}.")
    return typed(name, frame)


def _groups(table: pd.DataFrame, *further: str) -> dict[tuple[str, ...], pd.DataFrame]:
    return dict(iter(table.groupby(["model", "variant", *further], sort=False)))


def _row_keys(
    export: pd.DataFrame, measured: Iterable[pd.DataFrame]
) -> Iterator[tuple[str, str, str]]:
    """Model, variant and provider in order of appearance; PyTorch first within its model."""
    models: dict[str, dict[str, dict[str, None]]] = {}
    for model, variant in zip(export["model"], export["variant"], strict=True):
        models.setdefault(model, {}).setdefault(variant, {})
    for table in measured:
        for model, variant, provider in zip(
            table["model"], table["variant"], table["provider"], strict=True
        ):
            models.setdefault(model, {}).setdefault(variant, {})[provider] = None
    for model, variants in models.items():
        for variant in sorted(variants, key=lambda name: name != REFERENCE_VARIANT):
            for provider in variants[variant]:
                yield model, variant, provider


def _worst_status(tables: Iterable[pd.DataFrame]) -> tuple[str, str]:
    rows = pd.concat([table[["status", "reason"]] for table in tables])
    for status in ("failed", "unsupported"):
        reasons = rows.loc[rows["status"] == status, "reason"]
        if len(reasons):
            return status, f"{status}: {reasons.iloc[0] or 'no reason was recorded'}"
    return "ok", ""


def _folder_mb(rows: pd.DataFrame) -> float:
    if "folder_bytes" in rows and rows["folder_bytes"].notna().any():
        return float(rows["folder_bytes"].dropna().iloc[0]) / 1e6
    return float(rows["size_bytes"].sum()) / 1e6 if rows["size_bytes"].notna().any() else math.nan


def _parity_passed(rows: pd.DataFrame) -> bool | None:
    if (rows["passed"].eq(False)).any():
        return False
    complete = {"query", "document"} <= set(rows["kind"]) and rows["passed"].notna().all()
    return True if complete and rows["status"].eq("ok").all() else None


def quality(rows: pd.DataFrame, datasets: set[str]) -> dict[str, float]:
    """Means over datasets, and one p-value for them; all NaN unless every dataset is there."""
    rows = rows[rows["status"] == "ok"]
    if not datasets or set(rows["dataset"]) != datasets:
        return dict.fromkeys(QUALITY, math.nan)
    rows = rows[rows["ndcg_at_5"].notna()]  # without judgements there is nothing to average
    return {
        "ndcg_at_5": rows["ndcg_at_5"].mean(skipna=False),
        "ndcg_at_5_delta": rows["ndcg_at_5_delta"].mean(skipna=False),
        "p_value": _combined_p_value(rows),
        **_combined_interval(rows),
    }


def _combined_interval(rows: pd.DataFrame) -> dict[str, float]:
    """Interval of the mean difference: half-widths of the datasets add up in squares."""
    ends = [f"ndcg_at_5_delta_{end}" for end in ("low", "high")]
    if not len(rows) or not set(ends) <= set(rows):
        return dict.fromkeys(ends, math.nan)
    deltas = rows["ndcg_at_5_delta"]
    delta = deltas.mean(skipna=False)
    widths = [((pd.to_numeric(rows[end]) - deltas) ** 2).sum(skipna=False) for end in ends]
    below, above = (math.sqrt(width) / len(rows) for width in widths)
    return dict(zip(ends, (delta - below, delta + above), strict=True))


def _combined_p_value(rows: pd.DataFrame) -> float:
    """Stouffer's method: signed z-scores weighted by the square root of the queries."""
    needed = rows[["ndcg_at_5_delta", "p_value", "queries"]]
    if needed.isna().any(axis=None):
        return math.nan
    if len(needed) == 1:
        return float(needed["p_value"].iloc[0])
    normal, total, variance = NormalDist(), 0.0, 0.0
    for delta, p_value, queries in needed.itertuples(index=False):
        score = normal.inv_cdf(1 - min(max(float(p_value), 1e-12), 1.0) / 2)
        total += math.copysign(score, delta) * math.sqrt(queries) if delta else 0.0
        variance += float(queries)
    return 2 * (1 - normal.cdf(abs(total) / math.sqrt(variance))) if variance else math.nan


def _speed(rows: pd.DataFrame, kind: str, batch_size: Any) -> dict[str, float]:
    chosen = (rows["kind"] == kind) & (rows["status"] == "ok")
    if batch_size is not None and not pd.isna(batch_size):
        chosen &= (rows["batch_size"] == batch_size).fillna(False)
    return {
        f"{kind}_p50_ms": rows.loc[chosen, "p50_ms"].median(),
        f"{kind}_speedup": rows.loc[chosen, "speedup_vs_pytorch"].median(),
        **{
            f"{kind}_speedup_{end}": pd.to_numeric(rows.loc[chosen, f"speedup_{end}"]).median()
            for end in ("low", "high")
            if f"speedup_{end}" in rows
        },
    }
