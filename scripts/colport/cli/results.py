"""What a run found: its report, and what became slower, larger or worse between two runs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import typer

import colport
from colport.base.errors import ArtifactError, ColPortError
from colport.base.files import write_json, write_text
from colport.cli.console import say


def compare(
    old: Path,
    new: Path,
    threshold: float = 0.05,
    as_json: Path | None = None,
    as_markdown: bool = False,
) -> None:
    """Say what became slower, larger or worse beyond noise between two results folders.

    Parity and size are exact; NDCG@5 is tested over the same queries; a speed-up counts where
    the intervals of both runs do not overlap. What cannot be compared is said.
    Exit code: 0 nothing is worse, 1 something is, 2 a folder cannot be read.

    \b
    Example: colport compare results-main results --markdown
    """
    from colport.compare import compare, findings, repeatability

    try:
        found, repeated = compare(old, new, threshold), repeatability(old, new)
    except ColPortError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    worse = sum(item.verdict == "worse" for item in found)
    if as_json:
        record = {"old": str(old), "new": str(new), "threshold": threshold, "worse": worse}
        write_json(as_json, {**record, "findings": [asdict(item) for item in found]})
    if as_markdown:
        say(findings.markdown(found).rstrip())
    else:
        for line in findings.lines(found):
            say(line)
        if repeated:
            say(str(repeated))
        say(findings.verdict(found))
    raise typer.Exit(1 if worse else 0)


def report(
    results: Path,
    output: Path | None = None,
    against: Path | None = None,
    title: str = "ColPort report",
) -> None:
    """Write a run's report as one page, from its tables and records alone.

    With --against it says what became slower, larger or worse since the other run, as colport
    compare does, and puts every figure beside that of the other run.

    \b
    Example: colport report results --against results-main -o compared.html
    """
    from colport.report import Report, inputs
    from colport.report.sections import against as other_run

    if not (found := inputs.files(results)):
        raise ArtifactError(f"{results / 'tables'}: holds no tables of a run.")
    tables, explained, environment = inputs.read(found)
    run = {
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "colport_version": colport.__version__,
        "environment": environment,
    }
    compared = other_run.read(against, results) if against else None
    page = output or results / "report.html"
    write_text(page, Report(tables, run, explained, compared).html())
    say(str(page))
