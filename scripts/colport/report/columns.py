"""How a column is shown: its entry in the schema, with the function that its format names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from colport.base.columns import COLUMNS, Column
from colport.report.formatting import FORMATS

ROW_HEADERS = ("model", "variant", "provider", "graph", "row")


@dataclass(frozen=True)
class Shown:
    """One column's presentation; see :class:`colport.base.columns.Column`.

    Attributes:
        label: Header.
        show: From a cell's value to its text.
        numeric: Right-aligned and sorted as a number.
        better: ``higher``, ``lower`` or ``""`` where neither is.
    """

    label: str
    show: Callable[[Any], str]
    numeric: bool
    better: str


def column(name: str, numeric: bool) -> Shown:
    """The presentation of a column; one that is not in the schema is shown under its own name.

    Args:
        name: ``{column}_before`` and ``{column}_change`` are its figure in another run and the
            change since: a difference of NDCG@5, of others a share.
        numeric: Whether a column that is not in the schema holds numbers.
    """
    stem, _, end = name.rpartition("_")
    found = COLUMNS.get(name) or Column(name, type="float" if numeric else "text")
    if stem in COLUMNS and end in ("before", "change"):
        found = replace(COLUMNS[stem], label=f"{COLUMNS[stem].label}, {end}")
        if end == "change":
            found = replace(found, format="signed3" if stem == "ndcg_at_5" else "change")
    return Shown(found.label, FORMATS[found.format], found.numeric, found.better)
