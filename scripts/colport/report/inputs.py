"""What a report is made from, read from a results folder's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colport.base.errors import ArtifactError
from colport.base.files import read_json
from colport.tables import COLUMNS, read_table, read_tables

FURTHER = (
    *("embeddings", "operators", "providers", "retrieval_queries", "parity_inputs"),
    *("stages", "scenarios", "published", "captions", "caption_items"),
)
"""Tables beyond those of :data:`colport.tables.COLUMNS` that the page shows, if they are there."""

_PARTS = {"retrieval_queries": ("model", "variant", "provider", "dataset", "query", "ndcg_at_5")}
"""Columns of a further table where the page needs some alone."""


def files(results: Path | str) -> list[Path]:
    """The files of a results folder that a report is made from."""
    folder = Path(results)
    tables = [folder / f"tables/{name}.csv" for name in (*COLUMNS, *FURTHER)]
    records = [*folder.glob("explain/*/*.json"), *folder.glob("latency/*/*.json")]
    return [file for file in (*tables, *sorted(records)) if file.is_file()]


def read(
    paths: Iterable[Path | str],
) -> tuple[dict[str, pd.DataFrame], list[dict[str, Any]], dict[str, Any]]:
    """Read a run's files.

    Args:
        paths: CSV files of tables, the five of the contract among them, and JSON records in
            ``explain/`` and ``latency/``; others are left alone.

    Returns:
        Tables by name, records of explained scores, and the environment where latency was measured;
        several machines are named one after another, and ``runs`` has each by model and provider.

    Raises:
        ArtifactError: A table is missing or unreadable, a record damaged.
    """
    found = [Path(path) for path in paths]
    folder = next((path.parent for path in found if path.stem == "summary"), None)
    if folder is None:
        raise ArtifactError("summary.csv is missing; a report is made from a run's tables.")
    tables = read_tables(folder)
    for path in found:
        if path.suffix == ".csv" and path.stem in FURTHER:
            tables[path.stem] = read_table(path, *_PARTS.get(path.stem, ()))
    explained = [read_json(path) for path in found if "explain" in path.parts[-3:]]
    measured = [read_json(path) for path in found if "latency" in path.parts[-3:]]
    return tables, explained, _environment(measured)


def _environment(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The environments of several jobs as one; what differs is listed."""
    merged: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    for record in records:
        for row in record.get("rows", []):
            runs.setdefault(row["model"], {})[row["provider"]] = record["environment"]
        for key, value in record.get("environment", {}).items():
            known = merged.setdefault(key, value)
            if isinstance(known, dict) and isinstance(value, dict):
                merged[key] = known | value
            elif known != value and isinstance(known, str) and str(value) not in known:
                merged[key] = f"{known}; {value}"
    return merged | {"runs": runs} if runs else merged
