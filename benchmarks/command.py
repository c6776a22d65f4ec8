"""What the command lines of the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from colport.base.errors import ConfigError
from colport.base.files import write_text

DEMO, SCRATCH = Path("resources/checkpoints"), Path("build/bench")

Demo = Annotated[Path, typer.Option("--demo", help="Folder with the demo checkpoints.")]
Output = Annotated[Path | None, typer.Option(help="Markdown table to write.")]
Scratch = Annotated[
    Path, typer.Option(help="Where checkpoints and exports are written, then removed.")
]
Threads = Annotated[int, typer.Option(help="Threads of every contender.")]


def app(command: Callable[..., None]) -> typer.Typer:
    """The command line of one benchmark."""
    # Here: what runs in a process of its own has no use for it.
    from colport.cli.options import at_home

    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command()(at_home(command))
    return made


def start(command: Callable[..., None]) -> None:
    """Run a benchmark as it was called; exit codes are those of ``colport``."""
    from colport.cli import run

    run(app(command))


def publish(table: str, output: Path | None) -> None:
    """Print a benchmark's page, and write it where that was asked for."""
    if output:
        write_text(output, table)
    typer.echo(table)


def whole_numbers(option: str, text: str) -> list[int]:
    """Comma-separated whole numbers above 0.

    Raises:
        ConfigError: Something else.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(
            f"{option}: found {text!r}; allowed are whole numbers above 0 and commas."
        )
    return [int(part) for part in parts]
