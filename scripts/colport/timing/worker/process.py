"""The parent's side of a worker: a child with threads, cores and a time-out of its own.

Its files can be dropped from the page cache before, for a load from the disk; that needs no rights
of root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport.base.errors import UnsupportedError
from colport.base.redaction import redacted
from colport.processes.child import LIBRARY, Child, ChildError, ChildTimeoutError, one_line
from colport.timing.worker.cores import stat_fields
from colport.timing.worker.memory import kernel_kills, names_memory

_THREAD_VARIABLES = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "RAYON")]
_KEPT_CHARACTERS = 8192
_POLL_SECONDS = 0.002


@dataclass(eq=False)
class WorkerFailure(Exception):  # noqa: N818 - what happened to a contender, not an error of ours
    """A contender raised, ended, or did not answer in time.

    Attributes:
        reason: One line.
        detail: The traceback, or the last output of the process.
        unsupported: The contender named a known limit.
        ended: The process is gone; no further request can be made.
        out_of_memory: Memory ran out, by what the contender or the kernel said.
        killed: The process was killed by SIGKILL, for a reason that nobody gave.
    """

    reason: str
    detail: str = ""
    unsupported: bool = False
    ended: bool = False
    out_of_memory: bool = False
    killed: bool = False

    def as_limit(self, reason: str) -> WorkerFailure:
        """The same with a reason of its own; want of memory is a known limit."""
        return WorkerFailure(reason, self.detail, unsupported=self.out_of_memory)


class WorkerProcess:
    """One worker; it ends with :meth:`stop`, and all that it has started.

    Args:
        threads: Threads of OpenMP, MKL, OpenBLAS and the tokenizers.
        timeout_s: Seconds to wait for an answer, beyond the seconds that a request may take.
        cores: Logical cores that it runs on, from its first instruction; ``None``: any.
        python: Its interpreter; ``None`` is this one.
        module: What it runs.
    """

    def __init__(
        self,
        threads: int,
        timeout_s: float,
        cores: Sequence[int] | None = None,
        python: str | None = None,
        module: str = "colport.timing.worker.worker",
    ) -> None:
        self._timeout = timeout_s
        with _pinned(cores):
            self._child = Child.of(module, python=python, environment=_environment(threads))
        self._kernel_kills = kernel_kills()
        self.pid = self._child.pid
        self.close_requests = self._child.close_requests
        self.stop = self._child.close
        self.peak_rss_mb: float | None = None

    def ask(self, request: str, wait_seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: One of the worker's requests.
            wait_seconds: What the request may take by its own terms, on top of the time-out.
            **fields: Its fields; JSON values.

        Raises:
            WorkerFailure: The contender raised, the process ended, or time ran out (then the
                process is killed).
        """
        try:
            reply = self._child.ask({"request": request, **fields}, self._timeout + wait_seconds)
        except ChildTimeoutError as late:
            reason = f"did not answer within {self._timeout:g} s (timeout_s)"
            raise WorkerFailure(reason, late.output[-_KEPT_CHARACTERS:], ended=True) from None
        except ChildError as ended:
            raise self._failure(ended) from None
        self.peak_rss_mb = reply["peak_rss_mb"]
        if "error" in reply:
            raise WorkerFailure(
                one_line(reply["error"]),
                redacted(reply["traceback"]),
                unsupported=reply["unsupported"],
                out_of_memory=reply["out_of_memory"],
            )
        return reply

    def wait_quiet(self, seconds: float = 1.0) -> bool:
        """Wait until no thread of the worker runs: thread pools spin on for a while.

        Returns:
            ``False`` where one still ran after so many seconds. Without ``/proc``, waits a tenth
            of a second and returns ``True``.
        """
        if not self._child.is_alive:
            return True
        tasks = Path(f"/proc/{self.pid}/task")
        if not tasks.is_dir():
            time.sleep(0.1)
            return True
        deadline = time.monotonic() + seconds
        while any(_is_running(task) for task in tasks.glob("*/stat")):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _failure(self, ended: ChildError) -> WorkerFailure:
        is_killed = ended.code == -signal.SIGKILL
        is_aborted = ended.code == -signal.SIGABRT
        by_kernel = is_killed and kernel_kills() > self._kernel_kills
        return WorkerFailure(
            str(ended),
            ended.output[-_KEPT_CHARACTERS:],
            ended=True,
            out_of_memory=by_kernel or (is_aborted and names_memory(ended.output)),
            killed=is_killed,
        )


def drop_cached(folders: Iterable[Path | str]) -> None:
    """Ask the kernel to forget the cached pages of all files below some folders.

    Pages that a process has mapped, or that are not yet on the disk, stay (``posix_fadvise``,
    ``POSIX_FADV_DONTNEED``); so they are written first.

    Raises:
        UnsupportedError: The system has no such call.
        OSError: A file cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UnsupportedError("latency.cold_load: this system cannot drop files from its cache.")
    for folder in folders:
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


@contextlib.contextmanager
def _pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Pin this thread meanwhile: a process that it starts inherits that, with all its threads."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment(threads: int) -> dict[str, str]:
    paths = [str(LIBRARY), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def _is_running(stat: Path) -> bool:
    try:
        return stat_fields(stat)[0] == "R"
    except (OSError, IndexError):
        return False
