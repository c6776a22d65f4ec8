"""The page itself: gather what the sections show, fill the template, embed style and behaviour."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from colport.base.machine import in_words
from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.base.redaction import redacted
from colport.report import formatting
from colport.report.charts.chart import Chart
from colport.report.section import Against, Material
from colport.report.sections import (
    advice,
    against,
    captions,
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


class Section(NamedTuple):
    """One part of the page.

    Attributes:
        key: Its id, which links name; ``templates/sections/{key}.html`` prints it.
        title: Its heading.
        link: Its name in the navigation.
        content: What the template prints, or ``None`` where the material has nothing for it.
    """

    key: str
    title: str
    link: str
    content: Callable[[Material], Mapping[str, Any] | None]


SECTIONS = (
    Section("recommendation", "Recommendation", "Recommendation", advice.section),
    Section("against", "Compared with another run", "Compared", against.section),
    Section("charts", "Quality against cost", "Charts", quality.section),
    Section("speed", "Speed", "Speed", speed.section),
    Section("operators", "Where the time goes", "Operators", operators.section),
    Section("load", "Servers under load", "Servers under load", scenarios.section),
    Section("losses", "What was lost", "Losses", losses.section),
    Section("captions", "What captions say", "Captions", captions.section),
    Section("matches", "What matched", "What matched", matches.section),
    Section("tables", "Tables", "Tables", views.section),
    Section("problems", "Failed or unsupported", "Failed or unsupported", problems.section),
    Section("run-cost", "Cost of the run", "Cost of the run", run_cost.section),
    Section("environment", "Environment and settings", "Environment", machine.section),
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
        against: Against | None = None,
    ) -> None:
        self.material = Material(tables, run, explained, against)
        made = ((section, section.content(self.material)) for section in SECTIONS)
        self.sections = [(section, content) for section, content in made if content is not None]

    def html(self) -> str:
        """One page that needs no network and no server.

        Every text from outside is escaped, without what looks like an access token, and the page's
        content security policy lets nothing run or load but its own style and behaviour.
        """
        title = str(self.material.run.get("title") or "ColPort report")
        return self._page(title, self.sections)

    def charts(self) -> Iterator[Chart]:
        """The charts of every section."""
        for _, content in self.sections:
            for group in content.get("groups", {}).values():
                yield from group

    def tables(self) -> Iterator[tuple[str, str]]:
        """Name of each table that has rows, and a page with that table alone."""
        for _, content in self.sections:
            for view in content.get("views", ()):
                if view["rows"]:
                    title = view["schema"].title
                    alone = Section("tables", title, title, views.section)
                    yield view["name"], self._page(title, [(alone, {"views": [view]})])

    def _page(self, title: str, sections: Sequence[tuple[Section, Mapping[str, Any]]]) -> str:
        run = self.material.run
        style = "".join(map(asset, STYLES))
        behaviour = '"use strict";\n(() => {\n' + "".join(map(asset, BEHAVIOUR)) + "})();\n"
        measured = {"machine": in_words(run.get("environment") or {})}
        parts = [
            (section, Markup(fill(f"sections/{section.key}.html", **content, **measured)))
            for section, content in sections
        ]
        return fill(
            "page.html",
            **measured,
            title=title,
            created=_date(run.get("created")),
            version=run.get("colport_version"),
            counts=_counts(self.material.tables["summary"]),
            sections=parts,
            style=Markup(style),
            behaviour=Markup(behaviour),
            style_hash=_hash(style),
            behaviour_hash=_hash(behaviour),
        )


def fill(name: str, /, **values: Any) -> str:
    """The text of a template, whatever it prints escaped and without access tokens."""
    return _templates().get_template(name).render(values)


@cache
def _templates() -> jinja2.Environment:
    """What every template may use: the figures' formats as ``fmt``, the test ``missing``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=_plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = _script_json
    environment.tests["missing"] = formatting.is_missing
    environment.globals["fmt"] = formatting
    return environment


def _plain(value: Any) -> Any:
    """What a template prints of a value."""
    return value if hasattr(value, "__html__") else redacted(value)


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the ``script`` element it stands in."""
    text = json.dumps(redacted(value), ensure_ascii=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(text)


def asset(name: str) -> str:
    """The text of a file in ``assets/``."""
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _counts(summary: pd.DataFrame) -> list[str]:
    ours = (summary["variant"] != REFERENCE_VARIANT) & ~summary["variant"].map(is_peer).astype(bool)
    variants = summary[ours & (summary.get("status") != "unsupported")]
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
