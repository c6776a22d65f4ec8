"""What a person sees: results on standard output, steps and a bar on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import typer
from rich import progress
from rich.console import Console
from rich.text import Text


def say(message: str) -> None:
    """A result, on standard output."""
    typer.echo(message)


class Watch:
    """Steps of a command as they happen, and how far the current one is.

    Args:
        bar: A progress bar, which is drawn once it is started; steps go to its console.
    """

    def __init__(self, bar: progress.Progress) -> None:
        self._bar = bar

    def step(self, message: str) -> None:
        """Say what was done."""
        console = self._bar.console
        console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int) -> None:
        """Bytes done so far, and those of all."""
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)


class _Amount(progress.DownloadColumn):
    """Shows nothing until there is a total, as the time left does."""

    def render(self, task: progress.Task) -> Text:
        return super().render(task) if task.total else Text()


@contextmanager
def watch(doing: str, quiet: bool) -> Iterator[Watch]:
    """Watch a command's work; the bar is drawn on terminals only.

    Args:
        doing: What stands before the bar.
        quiet: Say nothing.
    """
    console = Console(stderr=True, quiet=quiet)
    left = progress.TimeRemainingColumn()
    columns = ("{task.description}", progress.BarColumn(), _Amount(), left)
    bar = progress.Progress(*columns, console=console, transient=True)
    bar.add_task(doing, total=None)
    with bar if console.is_terminal and not quiet else nullcontext():
        yield Watch(bar)
