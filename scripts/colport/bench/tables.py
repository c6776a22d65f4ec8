"""What every benchmark writes: a Markdown table, and what it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from colport import environment


def markdown_table(
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    cell: Callable[[str, Mapping[str, Any]], str],
) -> list[str]:
    """Lines of a table; ``cell`` gives the text of a column in a row."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(cell(column, row) for column in columns)} |" for row in rows),
    ]


def measured_table(
    record: Mapping[str, Any],
    columns: Sequence[str],
    cell: Callable[[str, Mapping[str, Any]], str],
) -> str:
    """The table of a record's ``rows`` below a line on its ``environment``, PyTorch's included."""
    machine = record["environment"]
    lines = [
        f"Measured on {environment.in_words(machine)}, "
        f"{machine['memory_mb'] / 1024:.0f} GiB; torch {machine['packages']['torch']}.",
        "",
        *markdown_table(columns, record["rows"], cell),
    ]
    return "\n".join(lines) + "\n"
