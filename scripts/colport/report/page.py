"""The page itself: gather what the sections show, fill the template, embed style and behaviour."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from colport.base.names import REFERENCE_VARIANT
from colport.report.charts import Chart
from colport.report.section import Maker, Material, Section
from colport.report.sections import (
    advice,
    losses,
    machine,
    matches,
    operators,
    problems,
    quality,
    run_cost,
    scenarios,
    speed,
    views,
)
from colport.report.sections import against as other_run
from colport.tables import COLUMNS, typed

SECTIONS: tuple[Maker, ...] = (
    advice.section,
    other_run.section,
    quality.section,
    speed.section,
    operators.section,
    scenarios.section,
    losses.section,
    matches.section,
    views.section,
    problems.section,
    run_cost.section,
    machine.section,
)
"""What the page shows, in this order."""

STYLES = ("base.css", "charts.css", "tables.css", "matches.css", "media.css")
BEHAVIOUR = ("files.js", "table.js", "points.js", "start.js")
"""Files of ``assets/`` that the page embeds, in this order."""

_HERE = Path(__file__).parent


class Report:
    """A run's report, from its sections to the files that show it.

    Args:
        tables: The tables of :data:`colport.tables.COLUMNS` by name; one that is missing counts
            as empty, a missing column as empty cells. Others as :mod:`colport.report.inputs`
            reads them.
        run: ``title``, ``created`` (ISO 8601), ``colport_version``, ``environment`` (of
            :func:`colport.base.machine.describe`, as the figures were measured in),
            ``settings`` (the configuration of the run) and ``allow_failed_parity``; all optional.
            Access tokens in it are blanked.
        explained: Records of :func:`colport.explain.record.explain_record`.
        against: Another run to compare with.

    Raises:
        ArtifactError: A column holds a value that it cannot hold.
    """

    def __init__(
        self,
        tables: Mapping[str, pd.DataFrame],
        run: Mapping[str, Any],
        explained: Sequence[Mapping[str, Any]] = (),
        against: other_run.Against | None = None,
    ) -> None:
        complete = {name: _complete(name, tables.get(name)) for name in COLUMNS}
        self._run, self._summary = run, complete["summary"]
        material = Material({**tables, **complete}, run, explained, against)
        made = (maker(material) for maker in SECTIONS)
        self.sections = [section for section in made if section is not None]

    def html(self) -> str:
        """One page that needs no network and no server.

        Every text from outside is escaped, and its content security policy lets nothing run or
        load but its own style and behaviour.
        """
        return self._page(str(self._run.get("title") or "ColPort report"), self.sections)

    def charts(self) -> Iterator[Chart]:
        """The charts of every section."""
        for section in self.sections:
            for group in section.content.get("groups", ()):
                yield from group.charts

    def tables(self) -> Iterator[tuple[str, str]]:
        """Name of each table that has rows, and a page with that table alone."""
        for section in self.sections:
            for view in section.content.get("views", ()):
                if view.rows:
                    content = {"views": [view]}
                    alone = Section("tables", view.title, view.title, "tables.html", content)
                    yield view.name, self._page(view.title, [alone])

    def _page(self, title: str, sections: Sequence[Section]) -> str:
        templates = _templates()
        style = stylesheet()
        behaviour = '"use strict";\n(() => {\n' + "".join(map(asset, BEHAVIOUR)) + "})();\n"
        return templates.get_template("page.html").render(
            title=title,
            created=_date(self._run.get("created")),
            version=self._run.get("colport_version"),
            machine=machine.in_words(self._run.get("environment") or {}),
            counts=_counts(self._summary),
            sections=[
                (section, Markup(templates.get_template(section.template).render(section.content)))
                for section in sections
            ],
            style=Markup(style),
            behaviour=Markup(behaviour),
            style_hash=_hash(style),
            behaviour_hash=_hash(behaviour),
        )


def render(
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    explained: Sequence[Mapping[str, Any]] = (),
    against: other_run.Against | None = None,
) -> str:
    """The page of a :class:`Report`.

    Raises:
        ArtifactError: A column holds a value that it cannot hold.
    """
    return Report(tables, run, explained, against).html()


def stylesheet() -> str:
    """The style of the page."""
    return "".join(map(asset, STYLES))


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = lambda value: Markup(views.script_json(value))
    return environment


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _complete(name: str, table: pd.DataFrame | None) -> pd.DataFrame:
    table = pd.DataFrame() if table is None else table
    further = [column for column in table.columns if column not in COLUMNS[name]]
    return typed(name, table.reindex(columns=[*COLUMNS[name], *further]).reset_index(drop=True))


def _counts(summary: pd.DataFrame) -> list[str]:
    variants = summary[summary["variant"] != REFERENCE_VARIANT]
    counts = (
        (summary["model"].nunique(), "model"),
        (variants["variant"].nunique(), "variant"),
        (variants["provider"].nunique(), "provider"),
    )
    return [f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts]


def _date(created: Any) -> str:
    try:
        moment = datetime.fromisoformat(str(created))
    except ValueError:
        return "" if created is None else str(created)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
