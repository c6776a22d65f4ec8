"""The report of a finished run, beside another one if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from colport.cli.console import say


def report(
    results: Annotated[Path, typer.Argument(help="Results folder of a finished run.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Page to write.", show_default="report.html in the folder"
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Results folder of another run to compare with.", show_default=False),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "ColPort report",
) -> None:
    """Write a run's report as one page, from its tables and records alone.

    With --against it says what became slower, larger or worse since the other run, as colport
    compare does, and puts every figure beside that of the other run.

    \b
    Example: colport report results --against results-main -o compared.html
    """
    from datetime import UTC, datetime

    import colport
    from colport.base.files import write_text
    from colport.report import Report, inputs
    from colport.report.sections import against as other_run

    found = inputs.read(inputs.files(results))
    run = {
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "colport_version": colport.__version__,
        "environment": found.environment,
    }
    compared = other_run.read(against, results) if against else None
    page = output or results / "report.html"
    write_text(page, Report(found.tables, run, found.explained, compared).html())
    say(str(page))
