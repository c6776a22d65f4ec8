"""What a report is made from, read from a results folder's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colport.artifacts import read_json
from colport.errors import ArtifactError
from colport.report.scenarios import read_scenarios
from colport.tables import COLUMNS, read_tables


def _read_profile(file: Path) -> pd.DataFrame:
    empty = {"kind": "", "operator": "", "execution_provider": ""}
    return pd.read_csv(file).astype({"nodes": "Int64"}).fillna(empty)


def _read_queries(file: Path) -> pd.DataFrame:
    names = ["model", "variant", "provider", "dataset", "query", "ndcg_at_5"]
    text = dict.fromkeys(names[:-1], str)
    return pd.read_csv(
        file, usecols=names, dtype=text, keep_default_na=False, na_values={"ndcg_at_5": [""]}
    )


def _read_plain(file: Path) -> pd.DataFrame:
    return pd.read_csv(file)


READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    "operators": _read_profile,
    "providers": _read_profile,
    "retrieval_queries": _read_queries,
    "parity_inputs": _read_plain,
    "stages": _read_plain,
    "scenarios": read_scenarios,
}
"""Tables beyond those of :data:`colport.tables.COLUMNS` that the page shows, if they are there."""


def files(results: Path | str) -> list[Path]:
    """The files of a results folder that a report is made from."""
    folder = Path(results)
    names = (*COLUMNS, *READERS)
    further = [folder / f"tables/{name}.csv" for name in names]
    explained = sorted(folder.glob("explain/*/*.json"))
    return [file for file in (*further, *explained) if file.is_file()]


def read(
    paths: Iterable[Path | str],
) -> tuple[dict[str, pd.DataFrame], list[Mapping[str, Any]]]:
    """Tables by name, and records of explained scores.

    Args:
        paths: CSV files of tables, the five of the contract among them, and JSON records; other
            tables are left alone.

    Raises:
        ArtifactError: A table is missing or unreadable, a record damaged.
    """
    found = [Path(path) for path in paths]
    folder = next((path.parent for path in found if path.stem == "summary"), None)
    if folder is None:
        raise ArtifactError("summary.csv is missing; a report is made from a run's tables.")
    tables = read_tables(folder)
    for path in found:
        if path.suffix == ".csv" and path.stem in READERS:
            try:
                tables[path.stem] = READERS[path.stem](path)
            except (ValueError, KeyError) as error:
                raise ArtifactError(f"{path}: is not a CSV table of a run ({error}).") from error
    return tables, [read_json(path) for path in found if path.suffix == ".json"]
