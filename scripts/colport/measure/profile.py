"""Where the time of one call goes: ONNX Runtime's profile summed by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from colport.base import machine
from colport.base.columns import row
from colport.base.errors import UnsupportedError
from colport.base.names import KINDS
from colport.families import registry
from colport.folder import manifest
from colport.measure import operations, placement
from colport.providers import ProviderSettings
from colport.providers.integers import needs_exact_kernels
from colport.providers.session import require_opset
from colport.runtime.remote import run_in, without_python

_OPERATIONS = "colport.measure.operations"


def profile(
    model: str,
    providers: Mapping[str, Mapping[str, Any]],
    folders: Mapping[str, Path | str],
    query: str,
    document: Any,
    threads: int,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Profile one query and one document in every variant of a model, one after another.

    Args:
        model: Name of the model.
        providers: Name to a provider's entry, with its ``type``.
        folders: Variant to exported folder.
        query: A query's text.
        document: A page or a passage, as the model reads them.
        threads: Threads within an operator.
        report: Called with each variant's name.

    Returns:
        A JSON-ready record: ``rows`` (those of ``operators.csv``), ``placement`` (those of
        ``providers.csv``), ``products`` (rows, inner size and columns of the matrix
        product that each graph is compared with), ``settings`` and ``environment``.
    """
    rows: list[dict[str, Any]] = []
    placed: list[dict[str, Any]] = []
    products: list[dict[str, Any]] = []
    for variant, folder in folders.items():
        report(variant)
        for provider, entry in providers.items():
            labels = {"model": model, "variant": variant, "provider": provider}
            settings = ProviderSettings.from_config(provider, entry)
            chosen = settings.provider.execution_provider
            try:
                read = manifest.read(folder)
                exact = needs_exact_kernels(read.integer_range, settings.provider, folder)
                require_opset(settings.provider, read.opset)
                runtime = registry.get(read.family).runtime(read.processing, Path(folder))
                batches = runtime.query_batch([query]), runtime.document_batch([document])
                for kind, batch in zip(KINDS, batches, strict=True):
                    file = Path(folder, read.graphs[batch.graph].file)
                    found = graph_profile(file, batch.feeds, threads, entry, exact)
                    product, calls, taken = (found.pop(k) for k in ("product", "calls", "taken"))
                    products.append({"variant": variant, "kind": kind, "product": product})
                    rows += _rows({**labels, "kind": kind}, found)
                    placed += placement.rows({**labels, "kind": kind}, chosen, calls, taken)
            except UnsupportedError as limit:
                labels |= {"kind": "", "status": "unsupported", "reason": str(limit)}
                rows.append(row("operators", **labels, operator=""))
                placed.append(row("providers", **labels, execution_provider=""))
    return {
        "rows": rows,
        "placement": placed,
        "products": products,
        "settings": {"threads": threads, "warmup": operations.WARMUP, "calls": operations.CALLS},
        "environment": machine.describe(),
    }


def graph_profile(
    file: Path | str,
    feeds: Mapping[str, np.ndarray],
    threads: int,
    entry: Mapping[str, Any] = MappingProxyType({"type": "cpu"}),
    exact_sums: bool = False,
) -> dict[str, Any]:
    """One graph's time by operator, and how close it comes to the machine's matmul rate.

    Args:
        file: An ONNX graph.
        feeds: Its inputs.
        threads: Threads within an operator.
        entry: The provider's entry.
        exact_sums: See :func:`colport.providers.session.open_session`.

    Returns:
        ``operators`` (name to ``nodes`` and ``ms``, the median over calls), ``graph_ms``,
        ``gflop``, ``matmul_share`` and ``product``, of which the last two are ``None`` for a graph
        without matrix products and the last three on other providers than the CPU; ``calls`` and
        ``taken`` as :func:`colport.measure.operations.profiled_calls` gives them.
    """
    settings = ProviderSettings.of(entry)
    graph, where = (str(file), feeds, threads), (without_python(entry), exact_sums)
    counts = operations.WARMUP, operations.CALLS
    profiled = f"{_OPERATIONS}:profiled_calls"
    calls, taken = run_in(settings.python, profiled, *graph, *counts, *where)
    is_counted = settings.provider.name == "cpu" and settings.python is None
    product = operations.largest_product(calls[0]) if is_counted else None
    graph_ms, *matmul_ms = run_in(
        settings.python, f"{_OPERATIONS}:call_ms", *graph, *where, product
    )
    gflop = operations.operations(calls[0]) / 1e9 if is_counted else None
    peak = operations.MATMUL_GFLOP / matmul_ms[0] if matmul_ms else None
    return {
        "operators": _by_operator(calls),
        "calls": calls,
        "taken": taken,
        "graph_ms": graph_ms,
        "gflop": gflop,
        "matmul_share": peak and gflop / graph_ms / peak,
        "product": product,
    }


def _rows(labels: Mapping[str, str], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slowest operator first."""
    figures = {key: value for key, value in found.items() if key != "operators"}
    total = sum(item["ms"] for item in found["operators"].values())
    ordered = sorted(found["operators"].items(), key=lambda item: -item[1]["ms"])
    return [
        row("operators", **labels, operator=name, **item, share=item["ms"] / total, **figures)
        for name, item in ordered
    ]


def _by_operator(calls: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    counts = Counter(event["args"]["op_name"] for event in calls[0])
    times = placement.median_ms(calls, "op_name")
    return {name: {"nodes": counts[name], "ms": ms} for name, ms in times.items()}
