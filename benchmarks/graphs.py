"""``python -m benchmarks.graphs``: how fast exported graphs run, beside PyTorch and plain exports.

The same module is exported four ways: by ColPort in ONNX's transformer operators and in plain
ones, and by ``torch.onnx.export`` with and without dynamo (eager attention, its faster form). Each
contender has a process of its own and they take turns, as in every latency run. A plain matrix
product of the model's size in ONNX Runtime says what the machine could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import graph_contenders, random_checkpoints
from benchmarks.command import DEMO, SCRATCH, Demo, Output, Scratch, Threads, publish, start
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_on
from colport.base import machine
from colport.base.errors import ConfigError
from colport.base.files import scratch_folder
from colport.export.folder import export
from colport.families import registry
from colport.measure.operations import operations, profiled_calls
from colport.processes.child import ChildError
from colport.runtime.encoder import Encoder
from colport.timing.runner import measure
from colport.timing.settings import Contender, Inputs, LatencySettings

TABLE = Table(
    {
        **dict.fromkeys(("case", "contender"), ""),
        **dict.fromkeys(("ms", "vs_pytorch", "vs_plain"), ".2f"),
        "gflops": ".0f",
        "of_matmul": ".0%",
    }
)
"""Median of a call in ms; times as fast as PyTorch and as the faster plain export; the rate."""

LOADS = Table(
    {
        "case": "",
        "file MB": ".0f",
        **dict.fromkeys(("read s", "session load s"), ".2f"),
        "ratio": ".1f",
        **dict.fromkeys(("own MB", "own MB, shared weights"), ".0f"),
    }
)
"""Median seconds to read a graph's files and to make a session, both from memory; memory of an
encoder's own beside the mapped file, without and with ``share_weights``."""

_FACTORIES = "benchmarks.graph_contenders"
_TOKENS = ((1, 32), (1, 180), (1, 300), (32, 32), (32, 180), (32, 300))
_PLAIN = {"torch.onnx dynamo": True, "torch.onnx torchscript": False}
_FORMS = {"colport": 24, "colport plain": 21}


@dataclass(frozen=True)
class _Model:
    """What is compared: a checkpoint, one of its graphs, and the size of its products."""

    name: str
    family: str
    checkpoint: Path
    graph: str
    product: tuple[int, int]


def run(
    names: Sequence[str],
    text_checkpoint: Path,
    files_from: Path,
    scratch: Path,
    settings: LatencySettings,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Export, measure and remove.

    Args:
        names: ``text`` (the text checkpoint at several sizes of batch), or sizes of
            :func:`benchmarks.random_checkpoints.sizes` (one page).
        text_checkpoint: A text model's folder.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for checkpoints and exports.
        settings: How long and how often to measure; batch sizes are those of the cases.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, ``loads`` with those of :data:`LOADS`, and the
        ``environment``.
    """
    rows, loads = [], []
    for name in names:
        with scratch_folder(scratch / name) as folder:
            model = _model(name, text_checkpoint, files_from, folder)
            files = _export_all(model, folder, report)
            for case, batch, feeds in _cases(model, folder):
                measured = _measure(model, files, batch, feeds, settings)
                for row in _rows(case, measured, _count(files["colport"], feeds)):
                    rows.append(row)
                    report(TABLE.line(row))
            loads.append({"case": model.name, **_load(files["colport"])})
            report(LOADS.line(loads[-1]))
    return {"rows": rows, "loads": loads, "environment": machine.describe()}


def markdown(record: Mapping[str, Any]) -> str:
    """The tables, with the machine they were measured on."""
    lines = [
        measured_on(record["environment"], "onnxruntime", "torch"),
        "",
        *TABLE.markdown(record["rows"]),
        "",
        *LOADS.markdown(record["loads"]),
    ]
    return "\n".join(lines) + "\n"


def main(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of a text model, as results/checkpoints/minilm-colbert.")
    ],
    checkpoints_folder: Demo = DEMO,
    cases: Annotated[
        str, typer.Option(help="Comma-separated: text, and sizes of `benchmarks.export`.")
    ] = "text,colpali-100M,colqwen2-100M",
    threads: Threads = 2,
    scratch: Scratch = SCRATCH,
    output: Output = None,
) -> None:
    """Compare exported graphs with PyTorch and with plain exports of the same modules.

    \b
    Example: python -m benchmarks.graphs results/checkpoints/minilm-colbert --output graphs.md
    """
    settings = LatencySettings(
        rounds=7, min_samples=35, min_seconds=2, max_seconds=30, precision=0, threads=threads
    )
    names = cases.split(",")
    record = run(names, checkpoint, checkpoints_folder, scratch, settings, typer.echo)
    publish(markdown(record), output)


def _model(name: str, text_checkpoint: Path, files_from: Path, folder: Path) -> _Model:
    if name == "text":
        return _Model("MiniLM", "colbert", text_checkpoint, "text", (384, 1536))
    family = name.partition("-")[0]
    if name not in random_checkpoints.sizes():
        known = ", ".join(["text", *random_checkpoints.sizes()])
        raise ConfigError(f"case: {name!r} is unknown; allowed are {known}.")
    random_checkpoints.write(name, files_from, folder / "checkpoint")
    return _Model(name, family, folder / "checkpoint", "image", (768, 3072))


def _export_all(
    model: _Model, folder: Path, report: Callable[[str], None]
) -> dict[str, Path | None]:
    files: dict[str, Path | None] = {}
    for form, opset in _FORMS.items():
        export(model.checkpoint, folder / form, family=model.family, opset=opset)
        files[form] = folder / form / f"{model.graph}.onnx"
    for name, dynamo in _PLAIN.items():
        files[name] = folder / name / f"{model.graph}.onnx"
        files[name].parent.mkdir()
        arguments = str(model.checkpoint), model.family, model.graph, str(files[name]), dynamo
        try:
            run_alone("benchmarks.graphs:export_plainly", *arguments)
        except ChildError as error:
            report(f"{model.name}: {name} cannot export it: {error}")
            files[name] = None
    return files


def export_plainly(checkpoint: str, family: str, graph: str, file: str, dynamo: bool) -> None:
    """Write a graph with ``torch.onnx.export`` alone, from the module with its weights."""
    import torch

    from colport.export.trace import GraphModule, example_inputs

    model, definition = graph_contenders.real_module(Path(checkpoint), family, graph, "eager")
    names = [item.name for item in definition.inputs]
    axes = [dict(item.axes) for item in definition.inputs]
    dynamic: dict[str, Any] = {"dynamic_axes": dict(zip(names, axes, strict=True))}
    if dynamo:
        shapes = tuple(dict.fromkeys(axis, torch.export.Dim.DYNAMIC) for axis in axes)
        dynamic = {"dynamic_shapes": {"inputs": shapes}}
    else:  # sizes are tensors there, which no check can compare
        definition = replace(
            definition, inputs=[replace(item, axes={}) for item in definition.inputs]
        )
    torch.onnx.export(
        GraphModule(model, definition),
        example_inputs(definition, "cpu"),
        file,
        input_names=names,
        output_names=["embeddings"],
        dynamo=dynamo,
        external_data=True,
        **dynamic,
    )


def _cases(model: _Model, folder: Path) -> list[tuple[str, int, Path]]:
    """Name, batch size and the file of inputs of each case."""
    if model.graph == "text":
        return [_text_case(model, folder, batch, tokens) for batch, tokens in _TOKENS]
    page = random_checkpoints.random_page()
    page.save(folder / "page.png")
    feeds = Encoder(folder / "colport").prepare_documents([page]).feeds
    np.savez(folder / "page.npz", **feeds)
    return [(f"{model.name} 1 page", 1, folder / "page.npz")]


def _text_case(model: _Model, folder: Path, batch: int, tokens: int) -> tuple[str, int, Path]:
    skeleton = registry.get(model.family).skeleton(model.checkpoint, "fp32")
    rng = np.random.default_rng(0)
    values = {
        "input_ids": rng.integers(1000, 20000, (batch, tokens)),
        "attention_mask": np.ones((batch, tokens), np.int64),
        "token_type_ids": np.zeros((batch, tokens), np.int64),
    }
    file = folder / f"{batch}x{tokens}.npz"
    np.savez(file, **{item.name: values[item.name] for item in skeleton.graphs[0].inputs})
    return f"{model.name} {batch}x{tokens}", batch, file


def _measure(
    model: _Model,
    files: Mapping[str, Path | None],
    batch: int,
    feeds: Path,
    settings: LatencySettings,
) -> dict[str, dict[str, Any]]:
    """The latency row of every contender."""
    threads = settings.threads
    given: dict[str, Any] = {"checkpoint": str(model.checkpoint), "family": model.family}
    if model.graph == "text":
        factory = f"{_FACTORIES}:eager"
        given |= {"graph": model.graph, "feeds": str(feeds)}
    else:
        factory = f"{_FACTORIES}:page_model"
        given["page"] = str(feeds.with_suffix(".png"))
    contenders = [Contender(model.name, "pytorch", "torch-cpu", factory, given)]
    for name, file in files.items():
        if file is not None:
            given = {"file": str(file), "feeds": str(feeds), "threads": threads}
            factory = f"{_FACTORIES}:onnx_graph"
            contenders.append(Contender(model.name, name, "cpu", factory, given))
    rows = len(np.load(feeds, allow_pickle=False)["input_ids"][0])
    inner, columns = model.product
    given = {"batch": batch, "rows": rows, "inner": inner, "columns": columns, "threads": threads}
    contenders.append(Contender(model.name, "matmul", "cpu", f"{_FACTORIES}:matmul", given))
    sized = replace(settings, batch_sizes=(batch,))
    record = measure(contenders, Inputs(queries=("",) * batch), sized, lambda message: None)
    if failed := [row for row in record["rows"] if row["status"] != "ok"]:
        raise ConfigError(f"{model.name}, {failed[0]['variant']}: {failed[0]['reason']}")
    product = 2 * batch * rows * inner * columns
    measured = {row["variant"]: row for row in record["rows"]}
    measured["matmul"]["operations"] = product
    return measured


def _rows(
    case: str, measured: Mapping[str, dict[str, Any]], operations: float
) -> list[dict[str, Any]]:
    plain = min((measured[n]["p50_ms"] for n in _PLAIN if n in measured), default=None)
    limit = measured["matmul"]["operations"] / measured["matmul"]["p50_ms"]
    rows = []
    for name, row in measured.items():
        ms = row["p50_ms"]
        rate = row.get("operations", operations) / ms
        found = {"case": case, "contender": name, "ms": ms, "vs_pytorch": None, "vs_plain": None}
        if name != "matmul":
            found["vs_pytorch"] = measured["pytorch"]["p50_ms"] / ms
            found["vs_plain"] = plain and plain / ms
        rows.append({**found, "gflops": rate / 1e6, "of_matmul": rate / limit})
    return rows


def _load(file: Path, repeats: int = 5) -> dict[str, float]:
    """A row of :data:`LOADS`."""
    import onnxruntime

    files = [file, *file.parent.glob("*.onnx_data")]
    reads, loads = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        for part in files:
            part.read_bytes()
        reads.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        loads.append(time.perf_counter() - begin)
        del session
    read, load = float(np.median(reads)), float(np.median(loads))
    return {
        "file MB": sum(part.stat().st_size for part in files) / 1e6,
        "read s": read,
        "session load s": load,
        "ratio": load / read,
        "own MB": own_megabytes(file.parent, shared=False),
        "own MB, shared weights": own_megabytes(file.parent, shared=True),
    }


def _count(file: Path, feeds: Path) -> float:
    """Multiplications and additions of one run, from the shapes that it had."""
    arrays = dict(np.load(feeds, allow_pickle=False))
    (call,), _ = profiled_calls(file, arrays, threads=0, warmup=0, calls=1)
    return operations(call)


def own_megabytes(folder: Path, shared: bool) -> float:
    """MB of an encoder's own in a new process, with or without ``share_weights``."""
    return run_alone("benchmarks.graph_contenders:loaded_megabytes", str(folder), shared)


if __name__ == "__main__":
    start(main)
