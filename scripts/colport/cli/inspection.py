"""What an exported folder is and how fast it is here; what this machine has, and ColPort knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import colport
from colport.base import machine
from colport.base.errors import ConfigError, LibraryError
from colport.cli import options
from colport.cli.console import say, watch
from colport.cli.inputs import Read
from colport.folder import manifest
from colport.providers.integers import IN_WORDS

_SETTINGS = {"batch_sizes": (1, 8), "rounds": 6, "min_samples": 12, "max_seconds": 3}


def inspect(folder: Path, verify: bool = False, as_json: bool = False, quiet: bool = False) -> None:
    """Say what an exported folder is, and whether its files are whole.

    Files are checked by size, with --verify by their bytes; graphs, by where their weights lie.

    \b
    Example: colport inspect exported/colpali --verify
    """
    if verify:
        with watch("hashing", quiet) as watched:
            found = manifest.verify(folder, watched.progress)
    else:
        found = manifest.read(folder)
    graphs_read = find_spec("onnx_ir") is not None  # a machine that only encodes has no onnx
    if graphs_read:
        from colport.tensors import external_data

        for graph in found.graphs.values():
            external_data.read(folder / graph.file)
    checks = {"files": "sha256" if verify else "size", "graphs": graphs_read}
    if as_json:
        say(json.dumps({**asdict(found), "checked": checks}, indent=2))
        return
    for line in _lines(found):
        say(line)
    say(f"checked: files by {checks['files']}" + (", graphs" if graphs_read else ""))


def env() -> None:
    """Print what an issue needs of this machine: versions, processor, memory, threads, providers.

    \b
    Example: colport env
    """
    try:
        from colport.base.library import onnxruntime

        providers = onnxruntime.get_available_providers()
    except LibraryError as error:
        providers = str(error)
    found = machine.describe()
    further = {
        "processor_class": machine.processor_class(found),
        "threads": machine.asked_threads() or machine.usable_cores(),
        "available_mb": round(machine.available_mb()),
        "providers": providers,
    }
    say(json.dumps({"colport": colport.__version__, **found, **further}, indent=2))


def known(what: Literal["models", "variants", "providers"]) -> None:
    """List the families of models, the ready-made variants, or the execution providers.

    \b
    Example: colport list providers
    """
    from colport.families import registry
    from colport.pipeline import variants
    from colport.providers import PROVIDERS

    if what == "models":
        families = map(registry.get, registry.NAMES)
        rows = {
            it.name: f"{getattr(it, 'document_type', it.task)}: {type(it).__doc__.split('.')[0]}"
            for it in families
        }
    elif what == "variants":
        rows = variants.meanings()
    else:
        from colport.base.library import onnxruntime

        here = onnxruntime.get_available_providers()
        rows = {
            name: "here" if it.execution_provider in here else f"not here; needs {it.requirement}"
            for name, it in PROVIDERS.items()
        }
    for name, told in rows.items():
        say(f"{name:<16} {told.replace('``', '')}")


def latency(
    folder: Path, checkpoint: str | None = None, provider: str = "cpu", quiet: bool = False
) -> None:
    """Time queries and documents at batch 1 and 8, beside the checkpoint in PyTorch if it is given.

    Two queries and two small documents that come with ColPort, in interleaved rounds, each
    contender in a process of its own; other work on the machine is said.

    \b
    Example: colport latency exported/colpali --checkpoint resources/checkpoints/colpali-demo
    """
    from colport.families import registry
    from colport.measure.entrants import Contest
    from colport.measure.latency import compare
    from colport.pipeline import proof
    from colport.report.formatting import milliseconds, ratio

    exported = manifest.read(folder)
    family = registry.get(exported.family)
    read = Read("", proof.QUERIES, proof.documents(family.reads))
    with TemporaryDirectory() as scratch, watch("timing", quiet) as watched:
        resolved = None
        if checkpoint:
            at = Path(scratch) / "checkpoint"
            found = options.resolved(checkpoint, None, at, True, watched.step)
            registry.require(family.name, Path(found["folder"]))
            if exported.source.get("weights", found["weights"]) != found["weights"]:
                raise ConfigError(f"{checkpoint}: has other weights than those behind {folder}.")
            resolved = {**found, "family": family.name}
        folders, entry = {folder.resolve().name: str(folder)}, {"type": provider}
        contest = Contest("", provider, resolved, folders, lambda: read, scratch, entry)
        record = compare(contest, _SETTINGS, machine.usable_cores(), watched.step)
    for row in record["rows"]:
        low, high, times = (row.get(f"speedup_{end}") for end in ("low", "high", "vs_pytorch"))
        speed = f", {ratio(times)} PyTorch ({ratio(low)} to {ratio(high)})" if times else ""
        case = f"{row['variant']:<16} {row['kind']:<8} batch {row['batch_size']}"
        say(f"{case}  p50 {milliseconds(row['p50_ms'])}{speed}  {row['reason']}".rstrip())


def _lines(found: manifest.Manifest) -> Iterator[str]:
    source = found.source.get("source", "not recorded")
    compared = ", compared by cosine" if found.is_single_vector else ""
    yield f"family     {found.family}, {found.vectors}{compared}"
    yield f"precision  {found.precision}, opset {found.opset}"
    if found.integer_range:
        yield f"sums       {IN_WORDS[found.integer_range]}"
    yield f"source     {source}"
    for sentence in found.source.get("applied", ()):
        yield f"{'':<10} {sentence}"
    yield f"proof      {found.check.get('status', 'not recorded')}"
    for name, graph in found.graphs.items():
        yield f"{name:<10} {graph.nodes:,} nodes, {graph.parameters:,} parameters"
        for arrow, values in (("<-", graph.inputs), ("->", graph.outputs)):
            for key, value in values.items():
                shape = ", ".join(map(str, value["shape"]))
                yield f"{'':<10} {arrow} {key} {value['dtype']} [{shape}]"
    for name, facts in found.files.items():
        yield f"{facts['size_bytes']:>14,} bytes  {name}"
