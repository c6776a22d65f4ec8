"""A function in a process of its own, so that its memory and imports are its own, too."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

from colport.processes.child import LIBRARY, Child
from colport.processes.wire import serve

_PATH = os.pathsep.join([str(LIBRARY), str(Path(__file__).resolve().parents[1])])


def run_alone(function: str, *arguments: Any, seconds: float | None = None) -> Any:
    """What a function answers to ``arguments``; all of it travels as JSON.

    Args:
        function: ``package.module:function``.
        *arguments: Its arguments.
        seconds: How long it may take, without end by default.

    Raises:
        colport.processes.child.ChildError: The function failed, and its process with it.
        colport.processes.child.ChildTimeoutError: It took longer, and was ended.
    """
    variables = {**os.environ, "PYTHONPATH": _PATH}
    with Child.of("benchmarks.processes", environment=variables) as child:
        return child.ask([function, arguments], seconds)


def anonymous_mb() -> float:
    """Memory of this process that no file backs, in MiB: Linux's ``RssAnon``."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 2**10


def _answer(request: list[Any]) -> Any:
    module, _, name = request[0].partition(":")
    return getattr(importlib.import_module(module), name)(*request[1])


if __name__ == "__main__":
    serve(_answer)
