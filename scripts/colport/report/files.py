"""Charts and tables as files of their own, which Snakemake's report shows."""

from __future__ import annotations

import re
from pathlib import Path

from markupsafe import escape

from colport.base.files import atomic_folder
from colport.report.charts import Chart
from colport.report.page import Report, asset

_MARGIN, _HEAD, _LINE = 16, 48, 16


def write_charts(report: Report, folder: Path | str) -> None:
    """Write every chart as ``{subject}/{chart}.svg``.

    Args:
        report: Whose charts.
        folder: Replaced as a whole.
    """
    with atomic_folder(Path(folder)) as temporary:
        for chart in report.charts():
            # The number that tells models apart is in the folder's name, in words.
            name = re.sub(r"-\d+", "", chart.key, count=1)
            file = temporary / _plain(chart.subject) / f"{name}.svg"
            if file.exists():
                file = file.with_stem(chart.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(standalone(chart), encoding="utf-8")


def write_tables(report: Report, folder: Path | str) -> None:
    """Write every table as ``{name}.html``, a page that sorts and filters as the report does.

    Args:
        report: Whose tables.
        folder: Replaced as a whole.
    """
    with atomic_folder(Path(folder)) as temporary:
        for name, page in report.tables():
            (temporary / f"{name}.html").write_text(page, encoding="utf-8")


def _plain(name: str) -> str:
    """A name that is one folder's, whatever a table holds."""
    return re.sub(r"[^\w.-]", "_", name).strip(".") or "_"


def standalone(chart: Chart) -> str:
    """A chart as an SVG file, with its title, its colours' names and its style inside."""
    colours = re.findall(r"(?:@media[^{]*\{\s*)?:root \{[^}]*\}\s*\}?", asset("base.css"))
    drawing = chart.drawing
    legend = 18 * len(chart.legend)
    width, height = drawing.width + 2 * _MARGIN, drawing.height + _HEAD + legend + 2 * _MARGIN
    entries = "".join(
        f'<g transform="translate(0 {18 * number})"><path class="bar {entry.colour}" '
        f'd="M0 0H12V12H0Z"/><text x="20" y="10">{escape(entry.name)}</text></g>'
        for number, entry in enumerate(chart.legend)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img"><title>{escape(chart.title)}</title>'
        f"<desc>{escape(chart.description)}</desc>"
        f"<style>{escape(''.join(colours) + asset('charts.css'))}</style>"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>'
        f'<text class="label" x="{_MARGIN}" y="{_MARGIN + 14}">{escape(chart.title)}</text>'
        f'<g transform="translate({_MARGIN} {_HEAD})">{entries}</g>'
        f'<g transform="translate({_MARGIN} {_HEAD + legend + 8})">{drawing.markup}</g></svg>\n'
    )
