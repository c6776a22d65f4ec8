"""The parent's side of a worker: start, ask with a time-out, and never leave it behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from colport.timing.worker.memory import kernel_kills, names_memory

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
_REASON_LINES = 3
_REASON_LENGTH = 600
_KEPT_BYTES = 8192
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.002


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

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        unsupported: bool = False,
        ended: bool = False,
        out_of_memory: bool = False,
        killed: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.unsupported = unsupported
        self.ended = ended
        self.out_of_memory = out_of_memory
        self.killed = killed

    def as_limit(self, reason: str) -> WorkerFailure:
        """The same with a reason of its own; want of memory is a known limit."""
        return WorkerFailure(reason, self.detail, unsupported=self.out_of_memory)


class WorkerProcess:
    """One worker, in a process group of its own.

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
        self._buffer = b""
        # A file, not a pipe: nobody reads while the worker works, and a full pipe would stop it.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        try:
            with _pinned(cores):
                self._process = subprocess.Popen(
                    [python or sys.executable, "-P", "-m", module, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._output,
                    env=_environment(threads),
                    bufsize=0,
                    start_new_session=True,
                )
        except BaseException:
            self._output.close()
            raise
        self._kernel_kills = kernel_kills()
        self._ready = False
        self._stopped = False
        self.peak_rss_mb: float | None = None

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

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
        deadline = time.monotonic() + self._timeout + wait_seconds
        if not self._ready:
            self._read_line(deadline)
            self._ready = True
        line = json.dumps({"request": request, **fields}) + "\n"
        self._write(line.encode(), deadline)
        reply = json.loads(self._read_line(deadline))
        self.peak_rss_mb = reply["peak_rss_mb"]
        if "error" in reply:
            raise WorkerFailure(
                _one_line(reply["error"]),
                reply["traceback"],
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
        if self._process.poll() is not None:
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

    def close_requests(self) -> None:
        """Let the worker end by itself; :meth:`stop` waits for it."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self, grace_s: float = _STOP_SECONDS) -> None:
        """End the worker and all it has started; safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        self.close_requests()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # What the worker itself has started lives on in its group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._output.close()

    def _write(self, data: bytes, deadline: float) -> None:
        stream = self._process.stdin.fileno()
        os.set_blocking(stream, False)
        while data:
            self._wait_for(stream, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(stream, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def _read_line(self, deadline: float) -> bytes:
        stream = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            self._wait_for(stream, selectors.EVENT_READ, deadline)
            chunk = os.read(stream, 1 << 16)
            if not chunk:
                raise self._ended()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _wait_for(self, stream: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stream, event)
            if selector.select(max(0.0, deadline - time.monotonic())):
                return
        reason = f"no answer within timeout_s ({self._timeout:g} s)"
        detail = self._last_output()
        self.stop(grace_s=0.0)
        raise WorkerFailure(reason, detail, ended=True)

    def _ended(self) -> WorkerFailure:
        """What the process left behind; called when its end of a pipe is closed."""
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        detail = self._last_output()
        reason = _describe_exit(code)
        lines = [line.strip() for line in detail.splitlines() if line.strip()]
        if lines:
            reason += f"; last output: {' | '.join(lines[-_REASON_LINES:])}"
        self.stop(grace_s=0.0)
        by_kernel = code == -signal.SIGKILL and kernel_kills() > self._kernel_kills
        return WorkerFailure(
            _one_line(reason),
            detail,
            ended=True,
            out_of_memory=by_kernel or (code == -signal.SIGABRT and names_memory(detail)),
            killed=code == -signal.SIGKILL,
        )

    def _last_output(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _KEPT_BYTES))
        return self._output.read().decode("utf-8", errors="replace")


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
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def _is_running(stat: Path) -> bool:
    try:
        # The name in parentheses may itself hold blanks and parentheses.
        return stat.read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):
        return False


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "closed its output without ending"
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"
