"""How much a parquet file unpacks to, measured piece by piece before anything else reads it.

A value that stands for a million rows is written once, so some kilobytes can unpack to gigabytes of
memory and disk, and no file says so truthfully beforehand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow import Array

ALWAYS = 2**30
"""Bytes that any file may unpack to."""

RATIO = 100
"""A larger one may unpack to so many times its size. Pages unpack to 1 to 2 times theirs, texts to
some 10."""

_PIECE = 2**30  # bytes that the rows of one piece take if each is as large as a whole column
_MOST_ROWS = 1024


def unpacks_to_too_much(file: Path) -> int | None:
    """The bytes that a parquet file may unpack to, if it unpacks to more; else ``None``.

    Raises:
        Exception: What Arrow raises on a damaged file.
    """
    import pyarrow.parquet as pq

    most = max(ALWAYS, RATIO * file.stat().st_size)
    with pq.ParquetFile(file.resolve()) as table:  # a relative path may look like an address
        stated = [
            table.metadata.row_group(group).column(column).total_uncompressed_size
            for group in range(table.metadata.num_row_groups)
            for column in range(table.metadata.num_columns)
        ]
        if sum(stated) > most:
            return most
        rows = min(max(_PIECE // max(stated, default=1), 1), _MOST_ROWS)
        unpacked = 0
        for piece in table.iter_batches(batch_size=rows, use_threads=False):
            unpacked += sum(map(_decoded_bytes, piece.columns))
            if unpacked > most:
                return most
    return None


def _decoded_bytes(array: Array) -> int:
    """Bytes of an array with each value written out, where Arrow itself would keep it once."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_struct(array.type):
        return sum(map(_decoded_bytes, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return array.nbytes - array.values.nbytes + _decoded_bytes(array.flatten())
    return array.nbytes
