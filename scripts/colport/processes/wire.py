"""What travels between a process and its child, and the child's own loop.

A value is a line of JSON, with the bytes of its arrays and images behind it. Nothing is pickled: a
process that a hostile file takes over can send wrong values, never code.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any, BinaryIO

import numpy as np

_NUMBERS = "biufc"
"""NumPy's kinds of dtypes that their name describes in full."""


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer requests of the parent until it closes its end; the main loop of a child.

    They come by standard input, which is empty from here on. A parent that is gone takes this
    process with it, and all that it has started.

    Args:
        answer: Request to answer; what it raises ends the process.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which a parent under nohup ignores
    pipe = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    requests = pipe.makefile("rb")
    while True:
        try:
            request = receive(requests)
        except EOFError:
            _end_with_parent(pipe, 0)  # before this process ends without what it has started
            return
        for part in encoded(answer(request)):
            pipe.sendall(part)


def encoded(value: Any) -> list[bytes]:
    """What is sent for a value: JSON's own, arrays of numbers, and images; tuples become lists.

    Raises:
        TypeError: It holds anything else.
    """
    parts: list[bytes] = []

    def described(item: Any) -> Any:
        if isinstance(item, np.generic):
            return item.item()
        # Without an import: who never opened an image sends none.
        images = sys.modules.get("PIL.Image")
        if isinstance(item, np.ndarray) and item.dtype.kind in _NUMBERS:
            found = {"$array": item.dtype.str, "shape": item.shape}
        elif images is not None and isinstance(item, images.Image):
            found = {"$image": item.mode, "size": item.size}
        else:
            raise TypeError(f"{type(item).__name__} cannot be sent to another process.")
        parts.append(item.tobytes())
        return {**found, "bytes": len(parts[-1])}

    line = json.dumps(value, default=described).encode() + b"\n"
    return [line, *parts]


def receive(stream: BinaryIO) -> Any:
    """Read a value that was sent as :func:`encoded` has it.

    Raises:
        EOFError: The stream ends before.
        ValueError: It is not such a value; others may be raised by what was made to harm.
    """

    def restored(item: dict[str, Any]) -> Any:
        # Objects end in the order in which they were written, and so do their parts.
        if "$array" in item:
            content = bytearray(_exactly(stream, item["bytes"]))
            return np.frombuffer(content, item["$array"]).reshape(item["shape"])
        if "$image" in item:
            import PIL.Image

            content = _exactly(stream, item["bytes"])
            return PIL.Image.frombytes(item["$image"], tuple(item["size"]), content)
        return item

    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line, object_hook=restored)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _end_with_parent(pipe: socket.socket, milliseconds: int | None = None) -> None:
    """A thread, since what is being answered may not come back to the loop for hours.

    ``PR_SET_PDEATHSIG`` would also end the child of a thread that ends in a parent that lives on.
    """
    poll = select.poll()
    poll.register(pipe, 0)  # for its hanging up alone
    if poll.poll(milliseconds):
        os.killpg(0, signal.SIGHUP)  # it hung up: SIGKILL would look like want of memory
        os.killpg(0, signal.SIGKILL)  # for those that ignore the other
