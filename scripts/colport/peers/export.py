"""Ask a peer to export a checkpoint: the folder, what it cost, or the error that it gave."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.base import machine
from colport.base.columns import row
from colport.base.errors import PeerError, UnsupportedError, read_of
from colport.base.files import atomic_folder, bytes_below, check_supported, write_json
from colport.families import registry
from colport.families.base import Family
from colport.peers.catalogue import FILE, PeerVariant
from colport.processes.child import LIBRARY, Child, ChildError, ChildTimeoutError

_WORDS = re.compile(
    r"^(?:<class '[\w.]+'>|Error|[\w.]*(?:Error|Exception|Fail)\b).*$", re.MULTILINE
)
_REASON_LENGTH = 300
_OWN = "colport.peers.torch_onnx"
"""The module that is a program of the catalogue: it alone finds this library."""


def export(
    variant: PeerVariant,
    output: Path,
    *,
    resolved: Mapping[str, Any],
    installed: Mapping[str, Any],
    base: Path | None,
    timeout_s: float,
    log: Path,
) -> dict[str, Any]:
    """Run the peer's programs; what they wrote becomes a folder with ``peer.json``.

    Args:
        variant: What to ask for.
        output: Folder to write.
        resolved: Record of :func:`colport.hub.checkpoints.record`.
        installed: Record of :mod:`colport.peers.environments`.
        base: The folder that it starts from, where ``variant.base`` names one.
        timeout_s: Seconds that each program may take.
        log: What they write is appended here.

    Returns:
        ``programs``: each one's command line, exit ``code``, ``seconds`` and ``peak_rss_mb``;
        ``graphs``: figures of each.

    Raises:
        PeerError: A program failed, or did not write what it was asked for.
        UnsupportedError: The peer says that it does not know such a model, or its environment
            cannot be made here.
    """
    if installed["status"] != "ok":
        raise UnsupportedError(installed["reason"])
    if base is not None:
        check_supported(base)
    family = registry.get(resolved["family"])
    kind, folder = family.document_type, Path(resolved["folder"])
    done: list[dict[str, Any]] = []
    with atomic_folder(output) as scratch:
        places = {
            "bin": f"{installed['folder']}/bin",
            "checkpoint": str(folder.resolve()),
            "output": str(scratch),
            "base": str(base),
        }
        for program in variant.programs[kind]:
            command = [part.format(**places) for part in program]
            for place in _outputs(command, scratch):
                place.mkdir(parents=True, exist_ok=True)
            done.append({"program": " ".join(program), **_run(command, variant, timeout_s, log)})
        files = variant.graphs[kind]
        for file in files.values():
            if not (scratch / file).is_file():
                raise PeerError(f"{variant.peer}: ended without an error, but wrote no {file}.")
        _drop_others(scratch, [scratch / file for file in files.values()])
        graphs = {name: _figures(scratch / file) for name, file in files.items()}
        _describe(variant, family, folder, scratch)
    return {"programs": done, "graphs": graphs}


def record(
    labels: Mapping[str, str],
    exported: Mapping[str, Any],
    folder: Path,
    installed: Mapping[str, Any],
) -> dict[str, Any]:
    """The export stage's record of a peer, with the rows of ``export.csv``."""
    cost = {
        "seconds": sum(program["seconds"] for program in exported["programs"]),
        "peak_rss_mb": max(program["peak_rss_mb"] for program in exported["programs"]),
    }
    size = bytes_below(folder)
    rows = [
        row("export", **labels, graph=name, **figures, **cost, folder_bytes=size)
        for name, figures in exported["graphs"].items()
    ]
    return {"rows": rows, "programs": exported["programs"], **_surroundings(installed)}


def not_exported(
    labels: Mapping[str, str], limit: UnsupportedError, installed: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a peer that failed, or that cannot do such a model."""
    found = row("export", **labels, graph="", status=limit.status, reason=str(limit))
    return {"rows": [found], **_surroundings(installed)}


def _surroundings(installed: Mapping[str, Any]) -> dict[str, Any]:
    peer = {key: installed.get(key) for key in ("python", "packages", "requirements")}
    return {"peer": peer, "environment": machine.describe()}


def words(output: str) -> str:
    """What a program said of its error: the last line that names one, else its last line."""
    found = _WORDS.findall(output) or [line for line in output.splitlines() if line.strip()]
    text = " ".join(found[-1].split()) if found else "no message"
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}…"


def _drop_others(folder: Path, graphs: list[Path]) -> None:
    """Remove the float graphs that it quantized: who ships integers ships no others."""
    shutil.rmtree(folder / "float", ignore_errors=True)
    for file in [file for file in folder.rglob("*.onnx") if file not in graphs]:
        file.with_name(f"{file.name}.data").unlink(missing_ok=True)
        file.unlink()


def _run(command: list[str], variant: PeerVariant, timeout_s: float, log: Path) -> dict[str, Any]:
    """Exit ``code``, ``seconds`` and ``peak_rss_mb`` of a program that did not fail."""
    start = time.perf_counter()
    with Child(command, environment=_variables(command), log=log) as child:
        try:
            child.wait(timeout_s, is_metered=True)
        except ChildTimeoutError as late:
            raise PeerError(f"{variant.peer}: {late.cause} (timeout_s).") from None
        except ChildError as ended:
            for limit in variant.limits if ended.code > 0 else ():
                if found := re.search(rf"^.*{limit}.*$", ended.output, re.MULTILINE):
                    raise UnsupportedError(f"{variant.peer}: {words(found[0])}") from None
            how = f"{ended.cause} at {child.peak_rss_mb:.0f} MiB" if ended.code < 0 else ended.cause
            said = f"{variant.peer}: {how}; last output: {words(ended.output)}"
            raise PeerError(said) from None
    seconds = time.perf_counter() - start
    return {"code": 0, "seconds": seconds, "peak_rss_mb": child.peak_rss_mb}


def _outputs(command: list[str], scratch: Path) -> list[Path]:
    """Folders of the files that a program is to write: some make none."""
    named = [Path(part) for part in command if part.startswith(f"{scratch}/")]
    return [path.parent if path.suffix else path for path in named]


def _variables(command: list[str]) -> dict[str, str]:
    """This process's variables without its Python's, and without the Hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    own = {"PYTHONPATH": str(LIBRARY)} if _OWN in command else {}
    return {**kept, **own, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


def _figures(file: Path) -> dict[str, Any]:
    """``opset``, ``parameters``, ``nodes``, ``size_bytes`` and ``weight_files`` of a graph."""
    import onnx

    # whatever is wrong with it is the peer's result
    with read_of(PeerError, file.name, "is not an ONNX file ({})", Exception):
        model = onnx.load(file, load_external_data=False)
    weights = model.graph.initializer
    entries = [entry for tensor in weights for entry in tensor.external_data]
    external = {entry.value for entry in entries if entry.key == "location"}
    sizes = [(file.parent / name).stat().st_size for name in external]
    return {
        "opset": next(item.version for item in model.opset_import if not item.domain),
        "parameters": sum(math.prod(tensor.dims) for tensor in weights),
        "nodes": len(model.graph.node),
        "size_bytes": file.stat().st_size + sum(sizes),
        "weight_files": len(external),
    }


def _describe(variant: PeerVariant, family: Family, checkpoint: Path, folder: Path) -> None:
    kind = family.document_type
    described: dict[str, Any] = {
        "variant": variant.name,
        "family": family.name,
        "client": variant.clients[kind],
        "graphs": variant.graphs[kind],
        "checkpoint": str(checkpoint.resolve()),
    }
    if described["client"] == "tokens":
        processing = family.processing(checkpoint)
        described["processing"] = processing.settings
        processing.tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / FILE, described)
