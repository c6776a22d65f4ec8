"""Benchmarks: comparisons whose figures belong into a table, not into a test.

Each is run from the root of the repository as ``python -m benchmarks.X``, with X one of export,
reference, graphs, throughput, maxsim, corpus and providers. They use the library, which knows
nothing of them.
"""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])

# Workers and other processes start without the working directory in their path.
if _ROOT not in (_paths := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, *_paths]))
