"""A process that this one starts, asks, and never leaves behind."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from colport.base.redaction import redacted
from colport.processes.wire import encoded, receive

LIBRARY = Path(__file__).resolve().parents[2]
"""Folder of this package, for the ``PYTHONPATH`` of a child."""

_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
_KEPT_BYTES = 1 << 16
_QUOTED_LINES = 3
_LONGEST = 600  # characters


class ChildError(Exception):
    """A child ended before it had done what it was asked, and says why in one line.

    Attributes:
        cause: How it ended, such as ``killed by SIGKILL (often: out of memory)``.
        output: The end of what it wrote.
        code: Its exit code; negative is the signal that ended it, ``None`` where it was ended for
            what it did.
    """

    def __init__(self, cause: str, output: str = "", code: int | None = None) -> None:
        # Without the lines of a traceback that only point at the one above.
        lines = [line.strip() for line in output.splitlines() if line.strip(" \t^~")]
        said = f"; last output: {' | '.join(lines[-_QUOTED_LINES:])}" if lines else ""
        super().__init__(one_line(cause + said))
        self.cause, self.output, self.code = cause, output, code


class ChildTimeoutError(ChildError):
    """It took longer than it was given, and has been killed."""


class Child:
    """A program in a process group of its own; with this object ends all that it has started.

    What it writes is kept out of sight, and its end is told where it fails.

    Args:
        program: Its command line.
        environment: Its environment variables; those of this process by default.
        log: File that what it writes is appended to; by default one that goes with it.
        is_asked: It is a module that calls :func:`colport.processes.wire.serve`; see :meth:`of`.

    Attributes:
        pid: Id of its process, and of its group.
        peak_rss_mb: See :meth:`wait`.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(
        self,
        program: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        is_asked: bool = False,
    ) -> None:
        self.peak_rss_mb = 0.0
        self._turn = Lock()
        self._failure: ChildError | None = None
        # A file, not a pipe: nobody reads while the child works, and a full pipe would stop it.
        self._output = log.open("ab+") if log else tempfile.TemporaryFile()  # noqa: SIM115
        self._begin = os.fstat(self._output.fileno()).st_size
        ours, theirs = socket.socketpair()
        self._pipe = _Pipe(ours)
        self._answers = io.BufferedReader(self._pipe)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    list(program),
                    stdin=theirs if is_asked else subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    # What a killed process has still in its buffer would never be told.
                    env={**(environment or os.environ), "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            self._output.close()
            raise
        self.pid = self._process.pid
        self._end = weakref.finalize(self, _end, self._process, ours, self._output)

    @classmethod
    def of(
        cls,
        module: str,
        *arguments: str,
        python: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """A Python that runs a module which calls :func:`colport.processes.wire.serve`.

        Args:
            module: Its name.
            *arguments: Of its command line.
            python: Its interpreter, absolute; this one by default.
            environment: Its variables; by default those of this process, with this library alone
                on its path.
        """
        given = environment or {**os.environ, "PYTHONPATH": str(LIBRARY)}
        program = [str(python or sys.executable), "-P", "-m", module, *arguments]
        return cls(program, environment=given, is_asked=True)

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def ask(self, request: Any, seconds: float | None = None) -> Any:
        """The answer to a request; see :func:`colport.processes.wire.encoded` for both.

        Threads wait for each other's answers.

        Args:
            request: What the module's own function is called with.
            seconds: How long to wait, without end by default.

        Raises:
            ChildError: The process ended instead of an answer, or had ended before.
            ChildTimeoutError: No answer came in time; the process has been killed.
            TypeError: The request holds what cannot travel.
        """
        parts = encoded(request)
        with self._turn:
            if not self._end.alive:
                raise self._failure or ChildError("has been closed")
            self._pipe.end = None if seconds is None else time.monotonic() + seconds
            try:
                for part in parts:
                    self._pipe.sendall(part)
                return receive(self._answers)
            except TimeoutError:
                raise self._late(seconds) from None
            except (EOFError, ConnectionError):
                raise self._ended() from None
            except Exception as error:  # noqa: BLE001 - whatever reading it raises, it is none
                cause = f"gave an answer that cannot be read ({type(error).__name__})"
                raise self._failed(ChildError, cause) from None
            except BaseException:  # the next request would have the answer to this one
                self.close(0.0)
                raise

    def wait(self, seconds: float | None = None, is_metered: bool = False) -> None:
        """Let a program end by itself.

        Args:
            seconds: How long to wait, without end by default.
            is_metered: Have ``peak_rss_mb`` tell the highest resident memory of the program with
                all that it started, in MiB.

        Raises:
            ChildError: It ended with another exit code than 0.
            ChildTimeoutError: It did not end in time, and has been killed.
        """
        start = time.monotonic()
        try:
            while self.is_alive:
                if is_metered:
                    self.peak_rss_mb = max(self.peak_rss_mb, _resident_mb(self.pid))
                if seconds is not None and time.monotonic() - start > seconds:
                    raise self._late(seconds)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.close(0.0)
            raise
        if self._process.returncode:
            raise self._ended()

    def output(self) -> str:
        """The end of what it has written so far, without secrets."""
        file = self._output.fileno()
        begin = max(self._begin, os.fstat(file).st_size - _KEPT_BYTES)
        # Without moving the place in the file, at which the child goes on.
        return redacted(os.pread(file, _KEPT_BYTES, begin).decode("utf-8", errors="replace"))

    def close_requests(self) -> None:
        """Let a module end by itself; :meth:`close` waits for it."""
        _close_requests(self._pipe.socket)

    def close(self, grace_s: float = _STOP_SECONDS) -> None:
        """Let the process end, and kill all that is left after so many seconds; safe twice."""
        if self._end.detach():
            _end(self._process, self._pipe.socket, self._output, grace_s)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _late(self, seconds: float) -> ChildError:
        return self._failed(ChildTimeoutError, f"did not answer within {seconds:g} s")

    def _ended(self) -> ChildError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        code = self._process.returncode
        return self._failed(ChildError, describe_exit(code), code)

    def _failed(self, kind: type[ChildError], cause: str, code: int | None = None) -> ChildError:
        self._failure = kind(cause, self.output(), code)
        self.close(0.0)
        return self._failure


class _Pipe(io.RawIOBase):
    """The parent's side of a socket, whose reads and writes all end at a time."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.end: float | None = None

    def readable(self) -> bool:
        """As :class:`io.BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, once something is; raises ``TimeoutError``."""
        return self._until_the_end().recv_into(buffer)

    def sendall(self, content: bytes) -> None:
        """Write all; raises ``TimeoutError``."""
        self._until_the_end().sendall(content)

    def _until_the_end(self) -> socket.socket:
        left = None if self.end is None else self.end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        return self.socket


def describe_exit(code: int | None) -> str:
    """How a process ended, by its exit code; ``None`` where it has closed its pipe only."""
    if code is None:
        return "closed its pipe without ending"
    if code >= 0:
        return f"ended with exit code {code}"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")


def one_line(text: str) -> str:
    """A text as one line of bounded length, without secrets."""
    line = " ".join(redacted(text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _end(
    process: subprocess.Popen[bytes],
    pipe: socket.socket,
    output: BinaryIO,
    grace_s: float = _STOP_SECONDS,
) -> None:
    _close_requests(pipe)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    finally:
        # What the process itself has started lives on in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pipe.close()
        output.close()


def _close_requests(pipe: socket.socket) -> None:
    with contextlib.suppress(OSError):
        pipe.shutdown(socket.SHUT_WR)


def _resident_mb(session: int) -> float:
    """The peak of a session's only process, or the present sum of several, in MiB."""
    peaks, present = [], 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) != session:
                continue
            sizes = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
            peaks.append(int(sizes["VmHWM"].split()[0]) / 2**10)
            present += int(sizes["VmRSS"].split()[0]) / 2**10
        except (OSError, KeyError):  # it ended meanwhile
            continue
    return max([present, *peaks])
