"""The export stage's record: one row a graph, with size, time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.base import machine
from colport.base.columns import row
from colport.base.files import bytes_below
from colport.folder.manifest import Manifest


def cost_since(start: float) -> dict[str, float]:
    """``seconds`` since a ``time.perf_counter()``, and the process's ``peak_rss_mb`` (MiB)."""
    return {"seconds": time.perf_counter() - start, "peak_rss_mb": machine.peak_rss_mb()}


def record(
    manifest: Manifest, folder: Path, labels: Mapping[str, str], cost: Mapping[str, float]
) -> dict[str, Any]:
    """Rows of an exported folder.

    Args:
        manifest: What was written.
        folder: Where it lies.
        labels: ``model``, ``family`` and ``variant``.
        cost: Of the whole job, repeated on each graph's row.
    """
    weights = [(folder / name).stat().st_size for name in manifest.external_data["files"]]
    rows = [
        row(
            "export",
            **labels,
            **cost,
            graph=name,
            opset=manifest.opset,
            parameters=graph.parameters,
            nodes=graph.nodes,
            size_bytes=(folder / graph.file).stat().st_size + sum(weights),
            weight_files=len(weights),
            folder_bytes=bytes_below(folder),
        )
        for name, graph in manifest.graphs.items()
    ]
    return {"rows": rows, "environment": machine.describe()}


def unsupported(labels: Mapping[str, str], reason: str) -> dict[str, Any]:
    """The record of a variant that a known limit prevents."""
    rows = [row("export", **labels, graph="", status="unsupported", reason=reason)]
    return {"rows": rows, "environment": machine.describe()}
