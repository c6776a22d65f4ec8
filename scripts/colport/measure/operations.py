"""ONNX Runtime's own profile of a graph, and the operations that its nodes took."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from colport.providers import ProviderSettings
from colport.providers.session import open_session

WARMUP, CALLS = 2, 7
"""Calls that do not count, and those that do, at least."""

MATMUL_GFLOP = 2.0
_MAX_CALLS = 100
_ENOUGH_SECONDS = 0.3
_MAX_SECONDS = 10.0
_PRODUCTS = {
    *("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulNBits"),
}
"""Matrix products whose first input is the left side."""


def profiled_calls(
    file: Path | str,
    feeds: Mapping[str, np.ndarray],
    threads: int,
    warmup: int,
    calls: int,
    provider: str | Mapping[str, Any] = "cpu",
    exact_sums: bool = False,
) -> tuple[list[list[dict[str, Any]]], dict[str, int]]:
    """Node events of each call after the warm-up, as ONNX Runtime's profiler writes them.

    Args:
        file: An ONNX graph.
        feeds: Its inputs.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
        warmup: Calls that are left out.
        calls: Calls that are kept.
        provider: A provider's type, or its entry.
        exact_sums: See :func:`colport.providers.session.open_session`.

    Returns:
        The events of each call, and execution provider to the number of nodes that it took.
    """
    settings = ProviderSettings.of(provider)
    with tempfile.TemporaryDirectory() as folder:
        options = {"profile": f"{folder}/profile", "exact_sums": exact_sums}
        profiled = open_session(file, settings, threads, **options)
        for _ in range(warmup + calls):
            profiled.run(None, dict(feeds))
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
        taken: Counter[str] = Counter()
        for part in profiled.get_provider_graph_assignment_info():
            taken[part.ep_name] += len(part.get_nodes())
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[warmup:]
    nodes = [event for event in events if event.get("cat") == "Node"]
    ends = [*runs[1:], math.inf]
    by_call = [
        [event for event in nodes if start <= event["ts"] < end]
        for start, end in zip(runs, ends, strict=True)
    ]
    return by_call, dict(taken)


def call_ms(
    file: Path | str,
    feeds: Mapping[str, np.ndarray],
    threads: int,
    provider: str | Mapping[str, Any] = "cpu",
    exact_sums: bool = False,
    product: tuple[int, int, int] | None = None,
) -> list[float]:
    """Median milliseconds of a call without the profiler.

    Args:
        file: An ONNX graph.
        feeds: Its inputs.
        threads: Threads within an operator.
        provider: A provider's type, or its entry.
        exact_sums: See :func:`colport.providers.session.open_session`.
        product: See :func:`largest_product`. A second figure is that of a matrix product on the CPU
            of this inner size and columns, with :data:`MATMUL_GFLOP` to do.
    """
    session = open_session(file, ProviderSettings.of(provider), threads, exact_sums=exact_sums)
    runs = [partial(session.run, None, dict(feeds))]
    if product is not None:
        runs.append(_matmul_runner(*product[1:], threads))
    return _median_ms(runs)


def _matmul_runner(inner: int, columns: int, threads: int) -> Callable[[], Any]:
    """One of the model's own products alone is over before all threads are awake."""
    rows = max(1, round(MATMUL_GFLOP * 1e9 / (2 * inner * columns)))
    values = np.random.default_rng(0).standard_normal((1, rows, inner), np.float32)
    session = open_session(matmul(rows, inner, columns), ProviderSettings.of("cpu"), threads)
    return partial(session.run, None, {"x": values})


def _median_ms(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Median milliseconds of each, called in turns: a drift of the machine's speed meets all."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        for _ in range(WARMUP):
            run()
    begin = time.perf_counter()
    spent = 0.0
    while not times[0] or spent < _MAX_SECONDS:
        for run, durations in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            durations.append((time.perf_counter() - start) * 1e3)
        spent = time.perf_counter() - begin
        if len(times[0]) >= _MAX_CALLS or (len(times[0]) >= CALLS and spent >= _ENOUGH_SECONDS):
            break
    return [statistics.median(durations) for durations in times]


def operations(call: Iterable[Mapping[str, Any]]) -> float:
    """Multiplications and additions of matrix products, convolutions and attention.

    Args:
        call: The node events of one call.
    """
    return sum(_operations(event["args"]) for event in call)


def largest_product(call: Iterable[Mapping[str, Any]]) -> tuple[int, int, int] | None:
    """Rows, inner size and columns of the costliest matrix product; ``None`` without one."""
    shapes = [
        (math.prod(output[:-1]), left[-1], output[-1])
        for event in call
        if event["args"]["op_name"] in _PRODUCTS
        for left, output in [_left_and_output(event["args"])]
    ]
    return max(shapes, key=math.prod, default=None)


def matmul(rows: int, inner: int, columns: int, batch: int = 1) -> bytes:
    """A model of one fp32 matrix product, ``x [batch, rows, inner]`` with a stored right side."""
    from onnx import numpy_helper, parser

    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        matmul (float[{batch}, {rows}, {inner}] x) => (float[{batch}, {rows}, {columns}] y) {{
            y = MatMul (x, weight)
        }}"""
    )
    weight = np.random.default_rng(0).standard_normal((inner, columns), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return model.SerializeToString()


def _operations(node: Mapping[str, Any]) -> float:
    name = node["op_name"]
    if name in _PRODUCTS:
        # The right side is not listed where it is a weight that was packed at load.
        left, output = _left_and_output(node)
        return 2.0 * math.prod(output) * left[-1]
    inputs = _shapes(node["input_type_shape"])
    if name == "Attention":
        query, key = inputs[:2]
        return 4.0 * math.prod(query) * key[-2]
    if name == "LinearAttention":  # a token reads its state twice and changes it once
        state = _shapes(node["output_type_shape"])[1]
        return 6.0 * math.prod(state) * inputs[0][1]
    if name == "Conv":
        (output,) = _shapes(node["output_type_shape"])
        return 2.0 * math.prod(output) * math.prod(inputs[1][1:])
    return 0.0


def _left_and_output(node: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    return _shapes(node["input_type_shape"])[0], _shapes(node["output_type_shape"])[0]


def _shapes(listed: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    return [next(iter(item.values())) for item in listed]
