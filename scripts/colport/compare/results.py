"""A results folder, read by the output contract: its tables, and records where they are there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colport.base.files import read_json
from colport.base.machine import processor_class
from colport.base.names import FULL, is_peer
from colport.tables import STAGES, read_tables

Row = Mapping[str, Any]
Key = tuple[Any, ...]

KEYS: Mapping[str, tuple[str, ...]] = {
    "export": ("model", "variant", "graph"),
    "parity": ("model", "variant", "provider", "kind"),
    "retrieval": ("model", "variant", "provider", "dataset", "embeddings"),
    "latency": ("model", "variant", "provider", "kind", "batch_size"),
}
"""Columns that name a row of a stage's table."""

MACHINE = ("cpu", "cores", "memory_mb", "gpu")
"""What two environments must share for their seconds to be compared."""

BASELINE = ("torch", "transformers", "sentence-transformers", "colpali-engine")
"""Packages whose versions make two PyTorch references the same one, on one processor class."""


class Results:
    """One run.

    Args:
        folder: A results folder; a copy with the tables and the stages' JSON files will do.

    Raises:
        ArtifactError: A table is missing or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        tables = read_tables(self.folder / "tables")
        self._rows = {name: _keyed(tables[name].to_dict("records"), name) for name in STAGES}

    def rows(self, stage: str) -> dict[Key, Row]:
        """Rows of a table by :data:`KEYS`, and a running number where several share them."""
        return self._rows[stage]

    def record(self, *parts: str) -> dict[str, Any] | None:
        """The record below these folders, without peers' rows; ``None`` if it was not kept.

        Raises:
            ArtifactError: It is damaged, or of another schema version.
        """
        *folders, name = parts
        file = self.folder.joinpath(*folders, f"{name}.json")
        if not file.is_file():
            return None
        record = read_json(file)
        return {**record, "rows": list(_ours(record.get("rows", [])))}


def common(old: Results, new: Results, stage: str) -> Iterator[tuple[Row, Row]]:
    """Rows that are ``ok`` in both runs."""
    after = new.rows(stage)
    for key, row in old.rows(stage).items():
        if key in after and row["status"] == after[key]["status"] == "ok":
            yield row, after[key]


def same_machine(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether two records name the same machine; without a record nobody knows."""
    if old is None or new is None:
        return False
    before, after = old.get("environment", {}), new.get("environment", {})
    classes = {name for found in (before, after) if (name := processor_class(found))}
    return len(classes) < 2 and all(
        key in before and before[key] == after.get(key) for key in MACHINE
    )


def other_baseline(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes the PyTorch of two records another one, each as one phrase.

    Packages of :data:`BASELINE`, and the class of the processor where both records tell it.
    """
    before, after = (_baseline(record["environment"]) for record in (old, new))
    both = [name for name in before if name in after]
    return [
        f"{name} {before[name]} -> {after[name]}" for name in both if before[name] != after[name]
    ]


def _baseline(environment: Mapping[str, Any]) -> dict[str, str | None]:
    found = {name: environment["packages"].get(name) for name in BASELINE}
    known = processor_class(environment)
    return {**found, "processor with": known} if known else found


def noise_note(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which of two records comes from a noisy machine; empty if none does."""
    noisy = [word for word, record in (("old", old), ("new", new)) if record["noise"]["noisy"]]
    return f"; noisy machine in the {' and the '.join(noisy)} run" if noisy else ""


def place(row: Row, *keys: str) -> str:
    """A row's name: model, variant and what else tells it from others."""
    return " ".join(
        str(row[key]) for key in ("model", "variant", *keys) if row.get(key) not in ("-", "", None)
    )


def is_number(value: Any) -> bool:
    """Whether a cell holds a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _keyed(rows: list[dict[str, Any]], stage: str) -> dict[Key, Row]:
    keyed: dict[Key, Row] = {}
    for row in _ours(rows):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        if row.get("embeddings") == FULL:
            row["embeddings"] = None  # what runs without smaller forms have
        key = tuple(row.get(column) or "" for column in KEYS[stage])
        number = 0
        while (*key, number) in keyed:
            number += 1
        keyed[*key, number] = row
    return keyed


def _ours(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows without those of peers: others' exports are no business of a gate on ours."""
    return (row for row in rows if not is_peer(row["variant"]))
