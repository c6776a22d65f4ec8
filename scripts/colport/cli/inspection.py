"""What an exported folder is, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from colport.cli.console import say, watch
from colport.folder import manifest
from colport.providers.integers import IN_WORDS


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


def _lines(found: manifest.Manifest) -> Iterator[str]:
    source = found.source.get("source", "not recorded")
    yield f"family     {found.family}, {found.dim} dimensions a token"
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
