"""A function in a process of its own, so that its memory and imports are its own, too."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any


def run_alone(function: str, *arguments: Any, **options: Any) -> Any:
    """What a function answers to ``arguments``; all of it travels as JSON.

    Args:
        function: ``package.module:function``.
        *arguments: Its arguments.
        **options: Of :func:`subprocess.run`, such as ``timeout``.

    Raises:
        subprocess.CalledProcessError: The function failed; its messages went to standard error.
        subprocess.TimeoutExpired: It ran for more than ``timeout`` seconds, and was ended.
    """
    command = [sys.executable, "-P", "-m", __spec__.name, function, json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    _module, _, _name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(_module), _name)(*json.loads(sys.argv[2]))))
