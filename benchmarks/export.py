"""Export at real size: peak memory and wall time, beside ``cp`` of the weights in the same run."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import random_checkpoints
from benchmarks.command import DEMO, SCRATCH, Demo, Output, Scratch, publish, start
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_table, millions
from colport.base import machine
from colport.base.files import bytes_below, scratch_folder

TABLE = Table(
    {
        "checkpoint": "",
        "parameters": millions,
        "variant": "",
        "checkpoint_gb": ".1f",
        "folder_gb": ".1f",
        "peak_rss_mb": ".1f",
        "seconds": ".1f",
        "cp_seconds": ".1f",
        "overhead_percent": ".1f",
    }
)
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}
_QUANTIZED = ("int8", "int4")


def run(
    names: Sequence[str],
    precisions: Sequence[str],
    files_from: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write random checkpoints, export each in a process of its own, and remove them.

    Args:
        names: Sizes, see :func:`benchmarks.random_checkpoints.sizes`.
        precisions: ``fp32``, ``fp16``, ``int8`` or ``int4``; the last two are made from a fp32
            folder, in which embedding tables have eight bits.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for what is written, some 20 GB at 3 billion parameters.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, and the ``environment``.
    """
    rows = []
    for name in names:
        with scratch_folder(scratch / name) as folder:
            parameters = random_checkpoints.write(name, files_from, folder / "checkpoint")
            for precision in precisions:
                row = {"checkpoint": name, "parameters": parameters, "variant": precision}
                rows.append({**row, **_measured(folder, precision, parameters)})
                report(TABLE.line(rows[-1]))
    return {"rows": rows, "environment": machine.describe()}


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    return measured_table(record, TABLE)


def main(
    checkpoints_folder: Demo = DEMO,
    sizes: Annotated[
        str, typer.Option(help="Comma-separated; benchmarks/random_checkpoints.toml has all.")
    ] = "colpali-10M,colpali-100M,colpali-1B,colpali-3B,colqwen2-2B",
    precisions: Annotated[str, typer.Option(help="Comma-separated.")] = "fp16,fp32,int8",
    scratch: Scratch = SCRATCH,
    output: Output = None,
) -> None:
    """Measure memory and time of exports of random checkpoints with published configurations.

    \b
    Example: python -m benchmarks.export --sizes colpali-3B --precisions fp16 --output export.md
    """
    record = run(sizes.split(","), precisions.split(","), checkpoints_folder, scratch, typer.echo)
    publish(markdown(record), output)


def write_variant(source: str, output: str, precision: str) -> float:
    """Export a checkpoint or quantize an exported folder; this process's peak memory in MiB."""
    from colport.export.folder import export
    from colport.quantize.folder import quantize
    from colport.quantize.settings import QuantizeSettings

    if precision == "int8":
        quantize(Path(source), Path(output))
    elif precision == "int4":
        settings = QuantizeSettings(bits=4, method="weight_only")
        quantize(Path(source), Path(output), settings)
    else:
        export(Path(source), Path(output), precision=precision)
    return machine.peak_rss_mb()


def _measured(folder: Path, precision: str, parameters: int) -> dict[str, float]:
    """Sizes, memory and seconds of one export; a fp32 folder to quantize is made before."""
    checkpoint, output = folder / "checkpoint", folder / precision
    source = folder / "fp32" if precision in _QUANTIZED else checkpoint
    if not source.exists():
        _export(checkpoint, source, "fp32")
    copying = _copy_seconds(source, folder / "copy")
    shutil.rmtree(output, ignore_errors=True)
    begin = time.perf_counter()
    peak = _export(source, output, precision)
    seconds = time.perf_counter() - begin  # with imports
    size = bytes_below(output)
    return {
        "checkpoint_gb": bytes_below(checkpoint) / 1e9,
        "folder_gb": size / 1e9,
        "peak_rss_mb": peak,
        "seconds": seconds,
        "cp_seconds": copying,
        "overhead_percent": 100 * (size / (parameters * _BYTES[precision]) - 1),
    }


def _export(source: Path, output: Path, precision: str) -> float:
    return run_alone("benchmarks.export:write_variant", str(source), str(output), precision)


def _copy_seconds(source: Path, target: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    seconds = time.perf_counter() - begin
    shutil.rmtree(target)
    return seconds


if __name__ == "__main__":
    start(main)
