"""Python code in a process of its own, so that its memory and imports are its own, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_alone(code: str, *arguments: str, timeout: float | None = None) -> str:
    """Run ``code`` with this library and ``arguments``; the last line that it prints.

    Raises:
        subprocess.CalledProcessError: The code failed; its messages went to standard error.
        subprocess.TimeoutExpired: It ran for more than ``timeout`` seconds, and was ended.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout.splitlines()[-1]
