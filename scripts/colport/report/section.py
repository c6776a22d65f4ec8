"""What the page is made from: the same material for every section.

To add one: a module with ``section(material)``, which gives what the section's template prints or
``None``, that template in ``templates/sections/``, and an entry in
:data:`colport.report.page.SECTIONS`. A further table needs a title, a caption and its columns in
``base/columns.yaml`` and its name in ``inputs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.compare import Finding
from colport.report import formatting as fmt
from colport.report.charts.chart import Chart
from colport.report.charts.marks import Legend
from colport.tables import COLUMNS, flatten, typed
from colport.tables.further import embeddings
from colport.tables.recommendation import SIGNIFICANCE

PLACE = ["variant", "provider"]
"""Columns that tell the rows of a model apart."""

MAX_MODELS = 12
"""Models that a section of charts draws; all are in its tables."""


@dataclass(frozen=True)
class Against:
    """Another run.

    Attributes:
        name: Of its results folder.
        summary: Its ``summary.csv``.
        findings: Of :func:`colport.compare.compare`, from that run to the one reported.
    """

    name: str
    summary: pd.DataFrame
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Material:
    """What a report is made from.

    Attributes:
        tables: Those of :data:`colport.base.columns.TABLES` by name. One that the run does not have
            is empty; of those of the contract a missing column has empty cells.
        run: ``title``, ``created``, ``environment``, ``settings`` and so on.
        explained: Records of :func:`colport.explain.record.explain_record`.
        against: Another run to compare with.

    Raises:
        ArtifactError: A column holds a value that it cannot hold.
    """

    tables: Mapping[str, pd.DataFrame]
    run: Mapping[str, Any] = field(default_factory=dict)
    explained: Sequence[Mapping[str, Any]] = ()
    against: Against | None = None

    def __post_init__(self) -> None:
        tables = {name: flatten(name, []) for name in TABLES} | dict(self.tables)
        for name, columns in COLUMNS.items():
            table = tables[name].reset_index(drop=True)
            further = [column for column in table if column not in columns]
            tables[name] = typed(name, table.reindex(columns=[*columns, *further]))
        if "embeddings" not in self.tables:
            tables["embeddings"] = embeddings(tables["retrieval"])
        object.__setattr__(self, "tables", tables)

    @cached_property
    def marks(self) -> Legend:
        """Shape and colour of each variant of the summary."""
        return Legend(map(str, self.tables["summary"]["variant"]))


def drawn(
    material: Material,
    tables: Sequence[pd.DataFrame],
    charts: Callable[..., Sequence[Chart | None]],
) -> dict[str, Any] | None:
    """Charts under the name of each model, for the templates that print them.

    Args:
        material: Its summary has the models in their order.
        tables: What is drawn.
        charts: From a model's number and name, and its rows in each table, to its charts.

    Returns:
        ``groups``: heading to charts; ``further``: models beyond those that are drawn. ``None``
        where there is no chart.
    """
    there = {name for table in tables for name in table["model"]}
    known = (name for table in (material.tables["summary"], *tables) for name in table["model"])
    names = [name for name in dict.fromkeys(known) if name in there]
    groups = {}
    for number, name in enumerate(names[:MAX_MODELS]):
        found = charts(number, str(name), *(table[table["model"] == name] for table in tables))
        groups[str(name)] = [chart for chart in found if chart]
    return {"groups": groups, "further": len(names) - MAX_MODELS} if any(groups.values()) else None


def namer(rows: pd.DataFrame, between: str = " on ") -> Callable[..., str]:
    """How rows are called in a chart: variant, and provider where the rows have several."""
    several = rows["provider"].nunique() > 1
    return lambda variant, provider: (
        f"{variant}{between}{fmt.provider(provider)}" if several else str(variant)
    )


def delta_note(delta: Any, p_value: Any, *interval: Any) -> str:
    """What a difference to PyTorch means.

    Returns:
        ``same as PyTorch`` where neither it nor an end of its interval differs from 0, ``within
        noise``, ``loss``, ``gain``, or nothing where it was not tested.
    """
    if fmt.is_missing(delta) or fmt.is_missing(p_value):
        return ""
    if p_value <= SIGNIFICANCE:
        return "loss" if delta < 0 else "gain" if delta else ""
    shown = {fmt.difference(value) for value in (delta, *interval)}
    return "same as PyTorch" if shown <= {"0.000", fmt.MISSING} else "within noise"


DIFFERENCE = ("ndcg_at_5_delta", "p_value", "ndcg_at_5_delta_low", "ndcg_at_5_delta_high")
"""Columns that :func:`delta_note` is made from."""
