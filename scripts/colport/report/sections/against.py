"""The section "Compared with": what changed since another run, and both runs' figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.compare import compare
from colport.compare.findings import verdict
from colport.report.section import Against, Material
from colport.report.sections.views import table_view
from colport.tables import KEYS, read_tables

_COLUMNS = TABLES["side_by_side"].columns
FIGURES = [name for name in _COLUMNS if f"{name}_change" in _COLUMNS]


def read(old: Path | str, new: Path | str) -> Against:
    """Compare two results folders.

    Args:
        old: The one to compare with.
        new: The one that is reported.

    Raises:
        ArtifactError: A table is missing, or a file is damaged or of another schema version.
    """
    return Against(str(old), read_tables(Path(old) / "tables")["summary"], compare(old, new))


def section(material: Material) -> dict[str, Any] | None:
    """What became slower, larger or worse, then every figure beside that of the other run."""
    other = material.against
    if other is None:
        return None
    found = [(item.group, item.verdict, item.place, item.text) for item in other.findings]
    findings = pd.DataFrame(found, columns=TABLES["findings"].columns)
    both = side_by_side(other.summary, material.tables["summary"])
    return {
        "name": other.name,
        "verdict": verdict(other.findings),
        "views": [table_view("findings", findings), table_view("side_by_side", both)],
    }


def side_by_side(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Every figure of the new summary, before it that of the old one, after it the change.

    Returns:
        The measured rows of both, the new run's first. Changes of NDCG@5 are differences, all
        others shares; ``run`` says which of the two has a row.
    """
    now, before = (
        table.loc[table[FIGURES[1:]].notna().any(axis=1), [*KEYS, *FIGURES]].drop_duplicates(KEYS)
        for table in (new, old)
    )
    order = pd.concat([now, before])[KEYS].drop_duplicates()
    both = now.merge(before, on=KEYS, how="outer", suffixes=("", "_before"), indicator="run")
    found = order.merge(both, on=KEYS, how="left")
    found["run"] = found["run"].map({"both": "both", "left_only": "this", "right_only": "other"})
    for figure in FIGURES:
        now, before = found[figure], found[f"{figure}_before"]
        found[f"{figure}_change"] = now - before if figure == "ndcg_at_5" else now / before - 1
    return found[list(_COLUMNS)]
