"""``colport bench graphs``: how fast the exported graphs run, beside PyTorch and plain exports.

The same module is exported four ways: by ColPort in ONNX's transformer operators and in plain
ones, and by ``torch.onnx.export`` with and without dynamo (eager attention, its faster form). Each
contender has a process of its own and they take turns, as in every latency run. A plain matrix
product of the model's size in ONNX Runtime says what the machine could do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from colport import environment, families
from colport.bench import graph_contenders, random_checkpoints
from colport.bench.processes import run_alone
from colport.bench.tables import markdown_table
from colport.errors import ConfigError
from colport.export.folder import export
from colport.latency.operations import count_operations
from colport.latency.runner import measure
from colport.latency.settings import Contender, Inputs, LatencySettings

COLUMNS = ("case", "contender", "ms", "vs_pytorch", "vs_plain", "gflops", "of_matmul")
"""Median of a call in ms; times as fast as PyTorch and as the faster plain export; the rate."""

_FACTORIES = "colport.bench.graph_contenders"
_TOKENS = ((1, 32), (1, 180), (1, 300), (32, 32), (32, 180), (32, 300))
_PAGE = (1240, 1754)  # pixels; A4 at 150 dpi
_PLAIN = {"torch.onnx dynamo": True, "torch.onnx torchscript": False}
_MEMORY = """
import sys
from colport import environment
from colport.encoder import Encoder
before = environment.anonymous_mb()
encoder = Encoder(sys.argv[1], share_weights=sys.argv[2] == "shared")
print((environment.anonymous_mb() - before) * 2**20 / 1e6)
"""
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
            :func:`colport.bench.random_checkpoints.sizes` (one page).
        text_checkpoint: A text model's folder.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for checkpoints and exports.
        settings: How long and how often to measure; batch sizes are those of the cases.
        report: Called with each row as it is ready.

    Returns:
        ``rows`` with :data:`COLUMNS`, ``loads`` and the ``environment``.
    """
    rows, loads = [], []
    for name in names:
        folder = scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = _model(name, text_checkpoint, files_from, folder)
        files = _export_all(model, folder, report)
        for case, batch, feeds in _cases(model, folder):
            measured = _measure(model, files, batch, feeds, settings)
            for row in _rows(case, measured, count_operations(files["colport"], feeds)):
                rows.append(row)
                report("  ".join(_cell(key, row) for key in COLUMNS))
        loads.append({"case": model.name, **_load(files["colport"])})
        report(f"{model.name}: {loads[-1]}")
        shutil.rmtree(folder)
    return {"rows": rows, "loads": loads, "environment": environment.describe()}


def markdown(record: Mapping[str, Any]) -> str:
    """The tables, with the machine they were measured on."""
    machine = record["environment"]
    packages = machine["packages"]
    lines = [
        f"Measured on {environment.in_words(machine)}; "
        f"onnxruntime {packages['onnxruntime']}, torch {packages['torch']}.",
        "",
        *markdown_table(COLUMNS, record["rows"], _cell),
        "",
        "| case | file MB | read s | session load s | ratio | own MB | own MB, shared weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for load in record["loads"]:
        ratio = load["load_seconds"] / load["read_seconds"]
        lines.append(
            f"| {load['case']} | {load['megabytes']:.0f} | {load['read_seconds']:.2f} | "
            f"{load['load_seconds']:.2f} | {ratio:.1f} | {load['own_megabytes']:.0f} | "
            f"{load['own_megabytes_shared']:.0f} |"
        )
    return "\n".join(lines) + "\n"


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
        code = (
            "from pathlib import Path; from colport.bench.graphs import export_plainly; "
            f"export_plainly(Path({str(model.checkpoint)!r}), {model.family!r}, {model.graph!r}, "
            f"Path({str(files[name])!r}), {dynamo})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            report(f"{model.name}: {name} cannot export it: {done.stderr.splitlines()[-1]}")
            files[name] = None
    return files


def export_plainly(checkpoint: Path, family: str, graph: str, file: Path, dynamo: bool) -> None:
    """Write a graph with ``torch.onnx.export`` alone, from the module with its weights."""
    import torch

    from colport.export.trace import GraphModule, example_inputs

    model, definition = graph_contenders.real_module(checkpoint, family, graph, "eager")
    names = [item.name for item in definition.inputs]
    axes = [dict(item.axes) for item in definition.inputs]
    dynamic: dict[str, Any] = {"dynamic_axes": dict(zip(names, axes, strict=True))}
    if dynamo:
        shapes = tuple(dict.fromkeys(axis, torch.export.Dim.DYNAMIC) for axis in axes)
        dynamic = {"dynamic_shapes": {"inputs": shapes}}
    torch.onnx.export(
        GraphModule(model, definition),
        example_inputs(definition, "cpu"),
        str(file),
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
    from PIL import Image

    from colport.encoder import Encoder

    noise = np.random.default_rng(0).integers(0, 256, (*_PAGE[::-1], 3), np.uint8)
    Image.fromarray(noise).save(folder / "page.png")
    with Image.open(folder / "page.png") as page:
        feeds = Encoder(folder / "colport").prepare_documents([page.convert("RGB")]).feeds
    np.savez(folder / "page.npz", **feeds)
    return [(f"{model.name} 1 page", 1, folder / "page.npz")]


def _text_case(model: _Model, folder: Path, batch: int, tokens: int) -> tuple[str, int, Path]:
    skeleton = families.get(model.family).skeleton(model.checkpoint, "fp32")
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
    checkpoint = {"checkpoint": str(model.checkpoint), "family": model.family}
    if model.graph == "text":
        given: dict[str, Any] = {**checkpoint, "graph": model.graph, "feeds": str(feeds)}
        contenders = [Contender(model.name, "pytorch", "torch-cpu", f"{_FACTORIES}:eager", given)]
    else:
        given = {**checkpoint, "page": str(feeds.with_suffix(".png"))}
        factory = f"{_FACTORIES}:page_model"
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
    sized = _with_batch(settings, batch)
    record = measure(contenders, Inputs(queries=("",) * batch), sized, lambda message: None)
    if failed := [row for row in record["rows"] if row["status"] != "ok"]:
        raise ConfigError(f"{model.name}, {failed[0]['variant']}: {failed[0]['reason']}")
    product = 2 * batch * rows * inner * columns
    measured = {row["variant"]: row for row in record["rows"]}
    measured["matmul"]["operations"] = product
    return measured


def _with_batch(settings: LatencySettings, batch: int) -> LatencySettings:
    return replace(settings, batch_sizes=(batch,))


def _rows(
    case: str, measured: Mapping[str, dict[str, Any]], operations: float
) -> list[dict[str, Any]]:
    plain = min((measured[n]["p50_ms"] for n in _PLAIN if n in measured), default=None)
    limit = measured["matmul"]["operations"] / measured["matmul"]["p50_ms"]
    rows = []
    for name, row in measured.items():
        rate = row.get("operations", operations) / row["p50_ms"]
        whole = name != "matmul"
        rows.append(
            {
                "case": case,
                "contender": name,
                "ms": row["p50_ms"],
                "vs_pytorch": measured["pytorch"]["p50_ms"] / row["p50_ms"] if whole else None,
                "vs_plain": plain / row["p50_ms"] if whole and plain else None,
                "gflops": rate / 1e6,
                "of_matmul": rate / limit,
            }
        )
    return rows


def _load(file: Path, repeats: int = 5) -> dict[str, float]:
    """Median seconds to make a session, and to read the files that it reads, both from memory;
    memory of an encoder's own beside the mapped file, with and without ``share_weights``."""
    import onnxruntime

    files = [file, *file.parent.glob("*.onnx_data")]
    reads, loads = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        for part in files:
            part.read_bytes()
        reads.append(time.perf_counter() - start)
        start = time.perf_counter()
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        loads.append(time.perf_counter() - start)
        del session
    return {
        "megabytes": sum(part.stat().st_size for part in files) / 1e6,
        "read_seconds": float(np.median(reads)),
        "load_seconds": float(np.median(loads)),
        "own_megabytes": _own_megabytes(file.parent, "own"),
        "own_megabytes_shared": _own_megabytes(file.parent, "shared"),
    }


def _own_megabytes(folder: Path, weights: str) -> float:
    return float(run_alone(_MEMORY, str(folder), weights))


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = row[key]
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return {"ms": f"{value:.2f}", "gflops": f"{value:.0f}", "of_matmul": f"{value:.0%}"}.get(
        key, f"{value:.2f}"
    )
