"""All checks of ``make test``, one after the other: style, workflow lint, tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time

# In the order of ``testpaths``: the long tests of the workflow do not come last, when others wait.
PYTEST = ("-n2", "--dist=loadfile", "--no-loadscope-reorder", "--durations=15")
CHECKS = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("snakefmt", ["snakefmt", "--check", "Snakefile", "rules"]),
    ("lines of the library", [sys.executable, "tests/budget.py"]),
    ("snakemake lint", ["snakemake", "--lint"]),
    ("tests", [sys.executable, "-m", "pytest", *PYTEST, *sys.argv[1:]]),
)


def main() -> int:
    """Run every check; the first failure ends the run with its exit code."""
    # Two processes run tests, each with a thread: PyTorch's threads would spin against each other.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name, command in CHECKS:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        done = subprocess.run(command, env=environment, check=False)
        print(f"== {name}: exit {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
