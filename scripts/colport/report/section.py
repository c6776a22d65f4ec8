"""What the page consists of: sections, each made from the same material by one function.

To add one: a module with ``section(material) -> Section | None``, a template of that section's
body in ``templates/``, and its function in :data:`colport.report.page.SECTIONS`. A further table
needs a title, a caption and its columns in ``base/columns.yaml`` and its name in ``inputs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from colport.compare import Finding
from colport.report.charts import Chart, LegendEntry
from colport.tables import empty

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
        tables: The tables of :data:`colport.tables.COLUMNS` by name, complete and typed (missing
            ones are empty), and whatever further tables the run has.
        run: ``title``, ``created``, ``environment``, ``settings`` and so on.
        explained: Records of :func:`colport.explain.record.explain_record`.
        against: Another run to compare with.
    """

    tables: Mapping[str, pd.DataFrame]
    run: Mapping[str, Any] = field(default_factory=dict)
    explained: Sequence[Mapping[str, Any]] = ()
    against: Against | None = None

    def table(self, name: str) -> pd.DataFrame:
        """A table by name; one that the run does not have is empty."""
        return self.tables[name] if name in self.tables else empty(name)


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        key: Its id, which links name.
        title: Its heading.
        link: Its name in the navigation.
        template: File in ``templates/`` that prints it; finds ``content`` as a variable.
        content: What the template prints; everything in it is escaped.
    """

    key: str
    title: str
    link: str
    template: str
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChartGroup:
    """Charts under one heading, mostly a model's name."""

    heading: str
    charts: Sequence[Chart]


def chart_section(
    key: str,
    title: str,
    link: str,
    intro: str,
    groups: Iterable[ChartGroup],
    legend: Iterable[LegendEntry] = (),
    further_marks: Sequence[tuple[str, Markup]] = (),
    note: str = "",
) -> Section | None:
    """A section that consists of charts; ``None`` where there are none.

    Args:
        key: Its id.
        title: Its heading.
        link: Its name in the navigation.
        intro: What is measured, which direction is better, from which samples.
        groups: Its charts; a group without any is left out.
        legend: The marks of variants, where the charts draw them.
        further_marks: What else the legend explains: a name and its mark around (0, 0).
        note: What is not shown, and where it is.
    """
    groups = [group for group in groups if group.charts]
    content = {"intro": intro, "groups": groups, "legend": list(legend), "note": note}
    content["further_marks"] = further_marks
    return Section(key, title, link, "charts.html", content) if groups else None


def undrawn(table: pd.DataFrame) -> str:
    """What to say of models beyond those that are drawn."""
    further = table["model"].nunique() - MAX_MODELS
    if further <= 0:
        return ""
    return f"The first models of the run are drawn; {further} more are in the tables."


Maker = Callable[[Material], Section | None]
"""Makes a section, or ``None`` where the material has nothing for it."""
