"""One query and one page of a model of real size: PyTorch in fp32 beside an exported folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import random_checkpoints
from benchmarks.command import DEMO, SCRATCH, Demo, Output, Scratch, publish, start
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_on, with_memory
from colport.base import machine
from colport.base.files import scratch_folder
from colport.measure.operations import operations, profiled_calls

TABLE = Table(
    {
        "contender": "",
        "query_s": ".2f",
        "query_vs_pytorch": ".2f",
        "page_s": ".1f",
        "page_vs_pytorch": ".2f",
        "peak_rss_mb": ".0f",
    }
)
OPERATORS = Table({"graph": "", "operator": "", "nodes": ".0f", "share": ".1%", "gflops": ".0f"})
"""One call's time by operator, every node as long as the fastest one of its shape."""

_QUERIES, _PAGES = 5, 2
_LEAST_SHARE = 0.005


def run(
    name: str, variant: str, files_from: Path, scratch: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Write a random checkpoint, export it, time it, and remove what was written.

    Each contender runs in a process of its own after the other, on one thread; seconds are those
    of the processor, since both at once need more memory than many machines have.

    Args:
        name: A size, see :func:`benchmarks.random_checkpoints.sizes`.
        variant: ``int8`` or ``int4``.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for what is written, some 21 GB at 3 billion parameters.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, ``operators`` with those of :data:`OPERATORS`,
        and the ``environment``.
    """
    rows: list[dict[str, Any]] = []
    with scratch_folder(scratch / name) as place:
        checkpoint, base, folder = (str(place / part) for part in ("checkpoint", "fp32", variant))
        random_checkpoints.write(name, files_from, Path(checkpoint))
        for source, output in ((checkpoint, base), (base, folder)):
            run_alone("benchmarks.export:write_variant", source, output, Path(output).name)
        for contender, function, arguments in (
            ("pytorch fp32", "pytorch", (checkpoint,)),
            (variant, "exported", (folder, False)),
            (f"{variant}, share_weights", "exported", (folder, True)),
        ):
            row = {"contender": contender}
            row |= run_alone(f"benchmarks.real_size:{function}", *arguments)
            for kind in ("query", "page"):
                row[f"{kind}_vs_pytorch"] = [*rows, row][0][f"{kind}_s"] / row[f"{kind}_s"]
            rows.append(row)
            report(TABLE.line(row))
        operators = run_alone("benchmarks.real_size:by_operator", folder)
    return {"rows": rows, "operators": operators, "environment": machine.describe()}


def pytorch(checkpoint: str) -> dict[str, float]:
    """Seconds and memory of the checkpoint's own library."""
    import torch

    from colport.families import registry

    torch.set_num_threads(1)
    found = registry.detect(Path(checkpoint)).reference(Path(checkpoint), "cpu", float("inf"))
    return _timed(found)


def exported(folder: str, share_weights: bool) -> dict[str, float]:
    """Seconds and memory of an exported folder."""
    from colport import Encoder

    return _timed(Encoder(folder, threads=1, workers=1, share_weights=share_weights))


def by_operator(folder: str) -> list[dict[str, Any]]:
    """What a query and a page take by operator, the costliest first."""
    from colport import Encoder

    encoder = Encoder(folder, threads=1, workers=1, share_weights=True)
    batches = {
        "query": encoder.prepare_queries([_query(0)]),
        "page": encoder.prepare_documents([random_checkpoints.random_page(0)]),
    }
    files = {
        kind: encoder.folder / encoder.manifest.graphs[batch.graph].file
        for kind, batch in batches.items()
    }
    del encoder
    rows = []
    for kind, file in files.items():
        (call,), _ = profiled_calls(file, batches[kind].feeds, 1, warmup=1, calls=1)
        rows += [{"graph": kind, **row} for row in _operators(call)]
    return rows


def markdown(record: Mapping[str, Any]) -> str:
    """The tables, with the machine they were measured on."""
    how = f"{with_memory(record['environment'])}, one thread, seconds of the processor"
    first = measured_on(record["environment"], "torch", "onnxruntime", how=how)
    tables = TABLE.markdown(record["rows"]), OPERATORS.markdown(record["operators"])
    return "\n".join([first, "", *tables[0], "", *tables[1]]) + "\n"


def main(
    checkpoints_folder: Demo = DEMO,
    size: Annotated[str, typer.Option(help="One of `benchmarks.export`'s.")] = "colpali-3B",
    variant: Annotated[str, typer.Option(help="int8 or int4.")] = "int8",
    scratch: Scratch = SCRATCH,
    output: Output = None,
) -> None:
    """Time a query and a page of a random checkpoint with a published configuration.

    \b
    Example: python -m benchmarks.real_size --size colpali-1B --output real_size.md
    """
    record = run(size, variant, checkpoints_folder, scratch, typer.echo)
    publish(markdown(record), output)


def _query(number: int) -> str:
    return f"what was sold in month {number + 1}?"


def _timed(encoder: Any) -> dict[str, float]:
    """The fastest calls, which whatever else runs made longest the least."""
    page = random_checkpoints.random_page(0)
    return {
        "query_s": min(_seconds(encoder.encode_queries, [_query(n)]) for n in range(_QUERIES)),
        "page_s": min(_seconds(encoder.encode_documents, [page]) for _ in range(_PAGES)),
        "peak_rss_mb": machine.peak_rss_mb(),
    }


def _seconds(call: Callable[[list[Any]], Any], inputs: list[Any]) -> float:
    begin = time.process_time()
    call(inputs)
    return time.process_time() - begin


def _operators(call: list[dict[str, Any]]) -> list[dict[str, Any]]:
    alike: dict[str, list[dict[str, Any]]] = {}
    for event in call:
        node = event["args"]
        shapes = node["op_name"], node["input_type_shape"], node["output_type_shape"]
        alike.setdefault(str(shapes), []).append(event)
    found: dict[str, dict[str, Any]] = {}
    for events in alike.values():
        name, fastest = events[0]["args"]["op_name"], min(event["dur"] for event in events)
        row = found.setdefault(name, {"operator": name, "nodes": 0, "us": 0, "operations": 0})
        row["nodes"] += len(events)
        row["us"] += len(events) * fastest
        row["operations"] += operations(events)
    total = sum(row["us"] for row in found.values())
    for row in found.values():
        row["share"] = row["us"] / total
        row["gflops"] = row["operations"] / row["us"] / 1e3 if row["operations"] else None
    ordered = sorted(found.values(), key=lambda row: -row["us"])
    return [row for row in ordered if row["share"] >= _LEAST_SHARE]


if __name__ == "__main__":
    start(main)
