"""Charts and tables as files of their own, which Snakemake's report shows."""

from __future__ import annotations

import re
from pathlib import Path

from colport.base.files import atomic_folder
from colport.report.charts.chart import Chart
from colport.report.page import Report, asset, fill


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
    style = "".join(colours) + asset("charts.css")
    return fill("chart.svg", chart=chart, style=style)
