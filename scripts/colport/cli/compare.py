"""What became slower, larger or worse between two runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from colport.base.errors import ColPortError
from colport.cli.console import say


def compare(
    old: Annotated[Path, typer.Argument(help="Results folder of the run to compare with.")],
    new: Annotated[Path, typer.Argument(help="Results folder of the run to judge.")],
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Share of a speed-up that may be lost, noise apart.")
    ] = 0.05,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="JSON file to write.", show_default=False)
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table.")
    ] = False,
) -> None:
    """Say what became slower, larger or worse beyond noise between two results folders.

    Parity and size are exact; NDCG@5 is tested over the same queries; a speed-up counts where
    the intervals of both runs do not overlap. What cannot be compared is said.
    Exit code: 0 nothing is worse, 1 something is, 2 a folder cannot be read.

    \b
    Example: colport compare results-main results --markdown
    """
    from colport.base.files import write_json
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
