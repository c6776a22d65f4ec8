"""The PyTorch reference at real size, in memory and streamed: peak memory, time, differences."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colport import environment
from colport.bench import random_checkpoints
from colport.bench.processes import run_alone
from colport.bench.tables import measured_table
from colport.families.memory import whole_mb

COLUMNS = (
    *("checkpoint", "parameters", "weights", "allowed_mb", "peak_rss_mb"),
    *("load_seconds", "queries_seconds", "pages_seconds", "read_seconds", "max_abs_diff"),
)

_ENCODE = """
import json, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from colport import environment, families
folder, count, memory, output = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
random = np.random.default_rng(0)
pages = [Image.fromarray(random.integers(0, 256, (1754, 1240, 3), np.uint8)) for _ in range(count)]
times = [time.perf_counter()]
reference = families.detect(folder).reference(folder, "cpu", memory)
times.append(time.perf_counter())
found = reference.encode_queries([f"what was sold in month {n + 1}?" for n in range(count)])
times.append(time.perf_counter())
found += reference.encode_documents(pages)
times.append(time.perf_counter())
np.savez(output, *found)
print(json.dumps({
    "weights": reference.room.weights,
    "seconds": np.diff(times).tolist(),
    "peak_rss_mb": environment.peak_rss_mb(),
}))
"""


def run(
    allowed_mb: Mapping[str, float],
    inputs: int,
    files_from: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Encode with random checkpoints in processes of their own, and remove what was written.

    Args:
        allowed_mb: Sizes, see :func:`colport.bench.random_checkpoints.sizes`, and the memory (MB)
            of their streamed runs. A size is run in memory, too, where the machine has that.
        inputs: So many queries, and so many pages.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for what is written, some 17 GB at 8 billion parameters.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with :data:`COLUMNS`, and the ``environment``. ``read_seconds`` is a plain read of
        the checkpoint's files before the run; ``max_abs_diff`` compares the two runs.
    """
    rows = []
    for name, streamed_mb in allowed_mb.items():
        folder = scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        parameters = random_checkpoints.write(name, files_from, folder / "checkpoint")
        fits = whole_mb(parameters) <= environment.available_mb()
        for memory in (streamed_mb, *([whole_mb(parameters)] if fits else [])):
            reading = _read_seconds(folder / "checkpoint")
            output = folder / f"{memory}.npz"
            arguments = (folder / "checkpoint", inputs, memory, output)
            found = json.loads(run_alone(_ENCODE, *map(str, arguments)))
            seconds = ("load_seconds", "queries_seconds", "pages_seconds")
            row = {
                "checkpoint": name,
                "parameters": parameters,
                "allowed_mb": memory,
                "read_seconds": reading,
                **dict(zip(seconds, found.pop("seconds"), strict=True)),
                **found,
                "max_abs_diff": None,
            }
            if memory != streamed_mb:
                row["max_abs_diff"] = _difference(folder / f"{streamed_mb}.npz", output)
            rows.append(row)
            report(_line(row))
        shutil.rmtree(folder)
    return {"rows": rows, "environment": environment.describe()}


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    return measured_table(record, COLUMNS, _cell)


def _read_seconds(folder: Path) -> float:
    start, buffer = time.perf_counter(), bytearray(2**24)
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def _difference(one: Path, other: Path) -> float:
    """Largest difference of a component; embeddings of other shapes raise."""
    with np.load(one, allow_pickle=False) as a, np.load(other, allow_pickle=False) as b:
        return max(float(np.abs(a[name] - b[name]).max()) for name in b.files)


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(_cell(key, row) for key in COLUMNS)


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = row[key]
    if value is None:
        return ""
    if key == "parameters":
        return f"{value / 1e6:,.0f} M"
    if key == "max_abs_diff":
        return f"{value:.2g}"
    digits = 0 if key.endswith("_mb") else 1
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
