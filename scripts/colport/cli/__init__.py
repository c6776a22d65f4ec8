"""The ``colport`` command: every stage by hand, on one model, with the pipeline's own functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

import colport
from colport.base.errors import ColPortError
from colport.base.files import remove_on_stop
from colport.base.redaction import print_redacted
from colport.cli import (
    caption,
    convert,
    evaluation,
    explain,
    inspection,
    options,
    plan,
    push,
    results,
    retrieval,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (
    *(convert.export, convert.quantize, convert.split, convert.merge, convert.shard),
    *(inspection.inspect, evaluation.parity, explain.explain, evaluation.mteb),
    *(plan.plan, results.compare, results.report, push.publish, push.push),
    *(retrieval.encode, retrieval.search, caption.caption),
    *(inspection.env, inspection.latency),
):
    app.command()(options.declared(command))
app.command("list")(options.declared(inspection.known))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(colport.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take late-interaction retrieval models from a checkpoint to ONNX Runtime."""


def main() -> None:
    """Run the command; see :func:`run`."""
    run(app)


def run(command: Callable[[], None]) -> None:
    """Run a command line as it was called.

    Exit codes: 0, 1 for what a user can mend (one sentence on standard error), 2 for a wrong
    call, 130, 143 and 129 (the terminal was closed) after an interruption, which leaves nothing
    half-written.
    """
    remove_on_stop()
    try:
        try:
            command()
        finally:
            sys.excepthook = print_redacted  # typer puts its own there
    except ColPortError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "colport").startswith("colport"):
            raise
        _fail(f"{error.name} is not installed; this command needs pip install 'colport[pipeline]'.")
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}.")


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)
