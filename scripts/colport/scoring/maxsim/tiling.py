"""How MaxSim is cut into blocks so that its memory stays under a limit, and shared by threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from colport.base.machine import asked_threads, usable_cores
from colport.scoring.maxsim.blocks import Columns, QueryBlock, lengths_of, starts_of

_FLOAT = 4
_QUERY_SHARE = 4  # of the memory holds queries; more are scored in several passes
_MOST_COLUMNS = 1024  # query tokens in one product
_FEWEST_LINES = 1024  # document tokens worth a block of their own
_BLOCKS_A_THREAD = 4  # so that no thread waits long for the last one
_BYTES_A_THREAD = 2**20


@dataclass
class Workspace:
    """Memory of one thread, ``float32`` and one-dimensional.

    Attributes:
        rows: For document tokens that are not stored as contiguous float32.
        products: For their products with query tokens, and the best of these.
    """

    rows: np.ndarray
    products: np.ndarray


@dataclass(frozen=True)
class Tiling:
    """Sizes of everything; a line is a document token or a document.

    Attributes:
        query_lengths: Tokens of each query.
        document_lengths: Tokens of each document.
        dim: Size of a token embedding.
        max_bytes: Limit of the extra memory.
        threads: At most this many.
    """

    query_lengths: np.ndarray
    document_lengths: np.ndarray
    dim: int
    max_bytes: int
    threads: int

    @classmethod
    def of(
        cls,
        queries: Sequence[np.ndarray],
        documents: Sequence[np.ndarray],
        max_bytes: int,
        threads: int | None,
    ) -> Tiling:
        """Check the arguments of MaxSim; see :func:`colport.scoring.maxsim.maxsim`."""
        if max_bytes <= 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must be positive.")
        if threads is not None and threads <= 0:
            raise ValueError(f"threads is {threads}; it must be positive.")
        query_lengths, query_dim = lengths_of(queries, "query")
        document_lengths, document_dim = lengths_of(documents, "document")
        if len(query_lengths) and len(document_lengths):
            if query_dim != document_dim:
                raise ValueError(
                    f"Queries have {query_dim} dimensions and documents {document_dim}."
                )
            if not document_lengths.all():
                raise ValueError(f"Document {int(np.argmin(document_lengths))} has no tokens.")
        threads = threads or asked_threads() or usable_cores()
        threads = max(1, min(threads, max_bytes // _BYTES_A_THREAD))
        return cls(query_lengths, document_lengths, query_dim, max_bytes, threads)

    @property
    def query_groups(self) -> Iterator[tuple[int, int]]:
        """Runs of queries that are held in memory together."""
        return runs(self.query_lengths, self._group_limit)

    def query_blocks(
        self,
        columns: Callable[[np.ndarray], Columns],
        queries: Sequence[np.ndarray],
        indices: np.ndarray,
    ) -> list[QueryBlock]:
        """Read some queries; those without tokens are left out."""
        blocks = []
        filled = indices[self.query_lengths[indices] > 0]
        for first, last in runs(self.query_lengths[filled], self._column_limit):
            chosen = filled[first:last]
            tokens = np.concatenate([queries[index] for index in chosen])
            starts = starts_of(self.query_lengths[chosen])
            blocks.append(QueryBlock(chosen, starts, columns(tokens)))
        return blocks

    @property
    def _group_limit(self) -> int:
        return self.max_bytes // _QUERY_SHARE // (_FLOAT * max(self.dim, 1))

    @property
    def _column_limit(self) -> int:
        return min(_MOST_COLUMNS, math.isqrt(self.max_bytes // self.threads // _FLOAT))

    def _widest(self, limit: int) -> int:
        """The most query tokens in a run that ends at a limit."""
        lengths = self.query_lengths
        return int(min(lengths.sum(), max(limit, lengths.max(initial=0))))

    @cached_property
    def _columns(self) -> int:
        return self._widest(self._column_limit)

    @cached_property
    def lines(self) -> int:
        """Lines in a block of documents."""
        # A block of queries is read before it is laid out as columns.
        queries = self._widest(self._group_limit) + self._columns
        left = self.max_bytes - _FLOAT * self.dim * queries
        fewest = self.query_lengths[self.query_lengths > 0].min(initial=_MOST_COLUMNS)
        scored = self._columns // fewest
        # A token has its products, its copy as it is stored and its float32 copy.
        line = _FLOAT * (self._columns + 2 * self.dim + scored)
        total = int(self.document_lengths.sum()) + len(self.document_lengths)
        share = max(_FEWEST_LINES, -(-total // (self.threads * _BLOCKS_A_THREAD)))
        return max(3, min(left // (self.threads * line), share))

    @property
    def documents(self) -> Iterator[tuple[int, int]]:
        """Runs of documents that fit in a block, or a single longer one."""
        return runs(self.document_lengths + 1, self.lines)

    def workspace(self) -> Workspace:
        """Memory for one thread."""
        rows = np.empty(self.lines * self.dim, np.float32)
        return Workspace(rows, np.empty(self.lines * self._columns, np.float32))


def run(
    work: Callable[[int, int, Workspace], None], tasks: Iterable[tuple[int, int]], tiling: Tiling
) -> None:
    """Do all tasks, each thread the next one that is left, in memory of its own."""
    pending = list(tasks)
    workers = max(1, min(tiling.threads, len(pending)))
    free = [tiling.workspace() for _ in range(workers)]

    def do(task: tuple[int, int]) -> None:
        workspace = free.pop()
        try:
            work(*task, workspace)
        finally:
            free.append(workspace)

    if workers == 1:
        for task in pending:
            do(task)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(do, pending))  # raises what a thread has raised


def runs(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut items into consecutive runs of at most ``limit``; a larger item is a run alone."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(ends):
        limit_end = limit + (ends[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(ends, limit_end, side="right")))
        yield first, last
        first = last
