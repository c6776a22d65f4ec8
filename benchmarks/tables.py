"""What every benchmark writes: Markdown tables, and what they were measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colport.base import machine as environment


def millions(value: int) -> str:
    """A number of parameters."""
    return f"{value / 1e6:,.0f} M"


@dataclass(frozen=True)
class Table:
    """The columns of a table and how their numbers are written.

    Attributes:
        formats: Column to a format or a function of its values; what is no number is text.
    """

    formats: Mapping[str, str | Callable[[Any], str]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in their order."""
        return tuple(self.formats)

    def line(self, row: Mapping[str, Any]) -> str:
        """A row as it is reported while others are still measured."""
        return "  ".join(self._cells(row))

    def markdown(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Lines of the table; further keys of a row are left out."""
        cells = [self.columns, ["---"] * len(self.columns), *map(self._cells, rows)]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return [lines[0], lines[1].replace(" ", ""), *lines[2:]]

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        return [_text(row[column], form) for column, form in self.formats.items()]


def _text(value: Any, form: str | Callable[[Any], str]) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.replace("|", "\\|").split())
    return form(value) if callable(form) else format(value, form)


def measured_on(machine: Mapping[str, Any], *packages: str, how: str = "") -> str:
    """The sentence before a table: the machine, with versions of some packages."""
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in packages)
    return f"Measured on {environment.in_words(machine)}{how}; {versions}."


def with_memory(machine: Mapping[str, Any]) -> str:
    """How much memory a machine has, behind its name."""
    return f", {machine['memory_mb'] / 1024:.0f} GiB"


def measured_table(record: Mapping[str, Any], table: Table) -> str:
    """A page with the table of a record's ``rows`` and PyTorch's version."""
    machine = record["environment"]
    first = measured_on(machine, "torch", how=with_memory(machine))
    return "\n".join([first, "", *table.markdown(record["rows"])]) + "\n"
