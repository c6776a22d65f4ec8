"""The five tables of the output contract.

The four measured tables concatenate the rows of the stages' records; ``summary`` is computed from
them.
"""

from __future__ import annotations

from colport.tables.frames import (
    COLUMNS,
    STAGES,
    STATUSES,
    empty,
    flatten,
    full_rows,
    read_table,
    read_tables,
    text_table,
    typed,
    write_tables,
)
from colport.tables.further import parity_inputs, stages
from colport.tables.summary import build, quality, summary_table

__all__ = [
    "COLUMNS",
    "STAGES",
    "STATUSES",
    "build",
    "empty",
    "flatten",
    "full_rows",
    "parity_inputs",
    "quality",
    "read_table",
    "read_tables",
    "stages",
    "summary_table",
    "text_table",
    "typed",
    "write_tables",
]
