"""A program of a peer: run with a time-out, its time and peak memory taken from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05
_KEPT_BYTES = 1 << 16


@dataclass(frozen=True)
class Finished:
    """What a program did.

    Attributes:
        code: Exit code, negative for a signal; ``None`` after the time-out.
        seconds: Wall time.
        peak_rss_mb: Highest resident memory of the program with all that it started, in MiB.
        output: The end of what it wrote.
    """

    code: int | None
    seconds: float
    peak_rss_mb: float
    output: str


def run(
    program: Sequence[str], timeout_s: float, log: Path, environment: Mapping[str, str]
) -> Finished:
    """Run a program in a process group of its own and watch its memory.

    Args:
        program: Command line.
        timeout_s: Seconds after which it is killed with all that it started.
        log: What it writes is appended here.
        environment: Its environment variables.
    """
    start = time.perf_counter()
    with log.open("ab") as stream:
        begin = stream.tell()
        process = subprocess.Popen(
            list(program),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        peak, code = 0.0, None
        try:
            while (code := process.poll()) is None:
                peak = max(peak, _resident_mb(process.pid))
                if time.perf_counter() - start > timeout_s:
                    break
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - _KEPT_BYTES))
        output = stream.read().decode("utf-8", errors="replace")
    return Finished(code, time.perf_counter() - start, peak, output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group, so that nothing outlives the job."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
