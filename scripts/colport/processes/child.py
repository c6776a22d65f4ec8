"""A Python process of this library that answers its parent over a pipe.

What travels is JSON, with the bytes of arrays and images behind it. Nothing is pickled: a process
that a hostile file takes over can send wrong values, never code.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

_LIBRARY = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 5.0
_NUMBERS = "biufc"
"""NumPy's kinds of dtypes that their name describes in full."""


class ChildEndedError(Exception):
    """The process is gone.

    Attributes:
        code: Its exit code; negative is the signal that ended it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"ended with code {code}")
        self.code = code


class Child:
    """A process that runs a module which calls :func:`serve`; it ends with this object.

    Args:
        module: Name of the module.
        *arguments: Arguments of its command line, after the pipe's file descriptor.
        python: Its interpreter, absolute; this one by default.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, module: str, *arguments: str, python: Path | None = None) -> None:
        self._turn = Lock()
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(str(python or sys.executable), "-P", "-m", module),
                    *(str(theirs.fileno()), *arguments),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_file(sys.stderr) else subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_LIBRARY)},
            )
        self._stop = weakref.finalize(self, _stop, self._process, self._pipe)

    def ask(self, request: Any, seconds: float | None = None) -> Any:
        """The answer to a request; see :func:`send` for what both may hold.

        Threads wait for each other's answers.

        Args:
            request: What the module's own function is called with.
            seconds: How long to wait, without end by default.

        Raises:
            ChildEndedError: The process is gone, or has ended instead of an answer.
            TimeoutError: No answer came in time; the process has been killed.
            TypeError: The request holds what cannot travel.
        """
        try:
            with self._turn:
                send(self._pipe, request)
                if not self._pipe.poll(seconds):
                    self._process.kill()
                    self.close()
                    raise TimeoutError
                return receive(self._pipe)
        except (EOFError, ConnectionError):
            self.close()
            raise ChildEndedError(self._process.returncode) from None

    def close(self) -> None:
        """Let the process end; one that does not is killed. Safe to call twice."""
        self._stop()


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer requests of the parent until it closes its end; the main loop of a child.

    Args:
        answer: Request to answer; what it raises ends the process.
    """
    with Connection(int(sys.argv[1])) as pipe:
        while True:
            try:
                request = receive(pipe)
            except EOFError:
                return
            send(pipe, answer(request))


def send(pipe: Connection, value: Any) -> None:
    """Write one value: JSON's own, arrays of numbers, and images; tuples arrive as lists.

    Raises:
        TypeError: It holds anything else.
    """
    parts: list[bytes] = []

    def described(item: Any) -> Any:
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, np.ndarray) and item.dtype.kind in _NUMBERS:
            parts.append(item.tobytes())
            return {"$array": item.dtype.str, "shape": item.shape}
        # Without an import: who never opened an image sends none.
        images = sys.modules.get("PIL.Image")
        if images is not None and isinstance(item, images.Image):
            parts.append(item.tobytes())
            return {"$image": item.mode, "size": item.size}
        raise TypeError(f"{type(item).__name__} cannot be sent to another process.")

    pipe.send_bytes(json.dumps(value, default=described).encode())
    for part in parts:
        pipe.send_bytes(part)


def receive(pipe: Connection) -> Any:
    """Read what :func:`send` wrote.

    Raises:
        EOFError: The other side is closed.
    """

    def restored(item: dict[str, Any]) -> Any:
        # Objects end in the order in which they were written, and so do their parts.
        if "$array" in item:
            content = bytearray(pipe.recv_bytes())
            return np.frombuffer(content, item["$array"]).reshape(item["shape"])
        if "$image" in item:
            import PIL.Image

            return PIL.Image.frombytes(item["$image"], tuple(item["size"]), pipe.recv_bytes())
        return item

    return json.loads(pipe.recv_bytes(), object_hook=restored)


def _stop(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    process.kill()
    process.wait()


def _has_file(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError):
        return False
