"""The PyTorch reference at real size, in memory and streamed: peak memory, time, differences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import random_checkpoints
from benchmarks.command import DEMO, SCRATCH, Demo, Output, publish, start, whole_numbers
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_table, millions
from colport.base import machine
from colport.base.errors import ConfigError
from colport.base.files import scratch_folder
from colport.families import registry
from colport.families.reference.memory import whole_mb

_SECONDS = ("load_seconds", "queries_seconds", "pages_seconds")

TABLE = Table(
    {
        "checkpoint": "",
        "parameters": millions,
        "weights": "",
        "allowed_mb": ".0f",
        "peak_rss_mb": ".0f",
        **dict.fromkeys((*_SECONDS, "read_seconds"), ".1f"),
        "max_abs_diff": ".2g",
    }
)


def run(
    allowed_mb: Mapping[str, float],
    inputs: int,
    files_from: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Encode with random checkpoints in processes of their own, and remove what was written.

    Args:
        allowed_mb: Sizes, see :func:`benchmarks.random_checkpoints.sizes`, and the memory (MB)
            of their streamed runs. A size is run in memory, too, where the machine has that.
        inputs: So many queries, and so many pages.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for what is written, some 17 GB at 8 billion parameters.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, and the ``environment``. ``read_seconds`` is a
        plain read of the checkpoint's files before the run; ``max_abs_diff`` compares the two runs.
    """
    rows = []
    for name, streamed_mb in allowed_mb.items():
        with scratch_folder(scratch / name) as folder:
            checkpoint = folder / "checkpoint"
            parameters = random_checkpoints.write(name, files_from, checkpoint)
            fits = whole_mb(parameters) <= machine.available_mb()
            for memory in (streamed_mb, *([whole_mb(parameters)] if fits else [])):
                row = {"checkpoint": name, "parameters": parameters, "allowed_mb": memory}
                row["read_seconds"] = _read_seconds(checkpoint)
                output = folder / f"{memory}.npz"
                arguments = str(checkpoint), inputs, memory, str(output)
                row |= run_alone("benchmarks.reference:encode", *arguments)
                compared = memory != streamed_mb
                streamed = folder / f"{streamed_mb}.npz"
                row["max_abs_diff"] = _difference(streamed, output) if compared else None
                rows.append(row)
                report(TABLE.line(row))
    return {"rows": rows, "environment": machine.describe()}


def encode(checkpoint: str, count: int, memory_mb: float, output: str) -> dict[str, Any]:
    """Load a checkpoint in PyTorch, encode queries and pages, and store the embeddings.

    Args:
        checkpoint: Its folder.
        count: So many queries and so many pages.
        memory_mb: MB that the model may take.
        output: ``.npz`` file with an array an input.
    """
    pages = [random_checkpoints.random_page(number) for number in range(count)]
    times = [time.perf_counter()]
    reference = registry.detect(Path(checkpoint)).reference(Path(checkpoint), "cpu", memory_mb)
    times.append(time.perf_counter())
    found = reference.encode_queries([f"what was sold in month {n + 1}?" for n in range(count)])
    times.append(time.perf_counter())
    found += reference.encode_documents(pages)
    times.append(time.perf_counter())
    np.savez(output, *found)
    return {
        "weights": reference.room.weights,
        **dict(zip(_SECONDS, np.diff(times).tolist(), strict=True)),
        "peak_rss_mb": machine.peak_rss_mb(),
    }


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    return measured_table(record, TABLE)


def main(
    checkpoints_folder: Demo = DEMO,
    sizes: Annotated[
        str,
        typer.Option(help="Comma-separated sizes of `benchmarks.export`, and colqwen2-8B."),
    ] = "colpali-100M,colpali-3B,colqwen2-8B",
    memory_mb: Annotated[
        str, typer.Option(help="Comma-separated: MB that each size may take where it is streamed.")
    ] = "2000,6000,12000",
    inputs: Annotated[int, typer.Option(min=1, help="So many queries and so many pages.")] = 2,
    scratch: Annotated[
        Path, typer.Option(help="Where checkpoints and embeddings are written, then removed.")
    ] = SCRATCH,
    output: Output = None,
) -> None:
    """Measure PyTorch's memory and time with weights in memory and read in each pass.

    \b
    Example: python -m benchmarks.reference --sizes colpali-3B --memory-mb 6000 --output ref.md
    """
    names, allowed = sizes.split(","), whole_numbers("memory-mb", memory_mb)
    if len(names) != len(allowed):
        raise ConfigError(
            f"memory-mb: found {len(allowed)} numbers; allowed is one for each of the "
            f"{len(names)} sizes."
        )
    chosen = dict(zip(names, allowed, strict=True))
    publish(markdown(run(chosen, inputs, checkpoints_folder, scratch, typer.echo)), output)


def _read_seconds(folder: Path) -> float:
    begin, buffer = time.perf_counter(), bytearray(2**24)
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - begin


def _difference(one: Path, other: Path) -> float:
    """Largest difference of a component; embeddings of other shapes raise."""
    with np.load(one, allow_pickle=False) as a, np.load(other, allow_pickle=False) as b:
        return max(float(np.abs(a[name] - b[name]).max()) for name in b.files)


if __name__ == "__main__":
    start(main)
