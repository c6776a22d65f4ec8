"""Export at real size: peak memory and wall time, beside ``cp`` of the weights in the same run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from colport import environment
from colport.bench import random_checkpoints
from colport.bench.processes import run_alone
from colport.bench.tables import measured_table
from colport.manifest import folder_bytes

COLUMNS = (
    "checkpoint",
    "parameters",
    "variant",
    "checkpoint_gb",
    "folder_gb",
    "peak_rss_mb",
    "seconds",
    "cp_seconds",
    "overhead_percent",
)
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}
_QUANTIZED = ("int8", "int4")

_EXPORT = """
import json, sys
from pathlib import Path
from colport import environment
from colport.export.folder import export
from colport.quantize.folder import quantize
from colport.quantize.settings import QuantizeSettings
source, output, precision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if precision == "int8":
    quantize(source, output)
elif precision == "int4":
    quantize(source, output, QuantizeSettings(bits=4, method="weight_only"))
else:
    export(source, output, precision=precision)
print(json.dumps({"peak_rss_mb": environment.peak_rss_mb()}))
"""


def run(
    names: Sequence[str],
    precisions: Sequence[str],
    files_from: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write random checkpoints, export each in a process of its own, and remove them.

    Args:
        names: Sizes, see :func:`colport.bench.random_checkpoints.sizes`.
        precisions: ``fp32``, ``fp16``, ``int8`` or ``int4``; the last two are made from a fp32
            folder, in which embedding tables have eight bits.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for what is written, some 20 GB at 3 billion parameters.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with :data:`COLUMNS`, and the ``environment``.
    """
    rows = []
    for name in names:
        folder = scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        parameters = random_checkpoints.write(name, files_from, folder / "checkpoint")
        for precision in precisions:
            source = folder / ("fp32" if precision in _QUANTIZED else "checkpoint")
            if not source.exists():
                _export(folder / "checkpoint", source, "fp32")
            copying = _copy_seconds(source, folder / "copy")
            output = folder / precision
            shutil.rmtree(output, ignore_errors=True)
            peak, seconds = _export(source, output, precision)
            size = folder_bytes(output)
            row = {
                "checkpoint": name,
                "parameters": parameters,
                "variant": precision,
                "checkpoint_gb": folder_bytes(folder / "checkpoint") / 1e9,
                "folder_gb": size / 1e9,
                "peak_rss_mb": peak,
                "seconds": seconds,
                "cp_seconds": copying,
                "overhead_percent": 100 * (size / (parameters * _BYTES[precision]) - 1),
            }
            rows.append(row)
            report("  ".join(_cell(key, row) for key in COLUMNS))
        shutil.rmtree(folder)
    return {"rows": rows, "environment": environment.describe()}


def markdown(record: dict[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    return measured_table(record, COLUMNS, _cell)


def _export(source: Path, output: Path, precision: str) -> tuple[float, float]:
    """Peak memory in MiB and wall seconds of one export, imports included."""
    start = time.perf_counter()
    printed = run_alone(_EXPORT, str(source), str(output), precision)
    seconds = time.perf_counter() - start
    return json.loads(printed)["peak_rss_mb"], seconds


def _copy_seconds(source: Path, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = row[key]
    if key == "parameters":
        return f"{value / 1e6:,.0f} M"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
