"""What every benchmark writes: a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


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
