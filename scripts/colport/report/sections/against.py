"""The section "Compared with": what changed since another run, and both runs' figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from colport.base.columns import TABLES
from colport.compare import compare
from colport.compare.findings import verdict
from colport.report.section import Against, Material, Section
from colport.report.sections.views import table_view
from colport.tables import read_tables

KEYS = ("model", "variant", "provider")
_COLUMNS = TABLES["side_by_side"].columns
FIGURES = tuple(name for name in _COLUMNS if f"{name}_change" in _COLUMNS)
_MEASURED = FIGURES[1:]


def read(old: Path | str, new: Path | str) -> Against:
    """Compare two results folders.

    Args:
        old: The one to compare with.
        new: The one that is reported.

    Raises:
        ArtifactError: A table is missing, or a file is damaged or of another schema version.
    """
    return Against(str(old), read_tables(Path(old) / "tables")["summary"], compare(old, new))


def section(material: Material) -> Section | None:
    """What became slower, larger or worse, then every figure beside that of the other run."""
    other = material.against
    if other is None:
        return None
    found = [
        {
            **{"stage": item.group, "judgement": item.verdict, "row": item.place},
            **{"change": item.text},
        }
        for item in other.findings
    ]
    findings = pd.DataFrame(found, columns=TABLES["findings"].columns)
    content = {
        "name": other.name,
        "verdict": verdict(other.findings),
        "views": [
            table_view("findings", findings),
            table_view("side_by_side", side_by_side(other.summary, material.tables["summary"])),
        ],
    }
    return Section("against", "Compared with another run", "Compared", "against.html", content)


def side_by_side(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Every figure of the new summary, before it that of the old one, after it the change.

    Returns:
        The measured rows of both, the new run's first. Changes of NDCG@5 are differences, all
        others shares; ``run`` says which of the two has a row.
    """
    runs = [
        table.loc[table[list(_MEASURED)].notna().any(axis=1), [*KEYS, *FIGURES]].drop_duplicates(
            list(KEYS)
        )
        for table in (new, old)
    ]
    order = pd.concat(runs)[list(KEYS)].drop_duplicates()
    both = runs[0].merge(
        runs[1], on=list(KEYS), how="outer", suffixes=("", "_before"), indicator="run"
    )
    found = order.merge(both, on=list(KEYS), how="left")
    found["run"] = found["run"].map({"both": "both", "left_only": "this", "right_only": "other"})
    columns: Mapping[str, pd.Series] = {name: found[name] for name in (*KEYS, "run")}
    for figure in FIGURES:
        before, now = found[f"{figure}_before"], found[figure]
        change = now - before if figure == "ndcg_at_5" else now / before - 1
        columns |= {f"{figure}_before": before, figure: now, f"{figure}_change": change}
    return pd.DataFrame(columns)
