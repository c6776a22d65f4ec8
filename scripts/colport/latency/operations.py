"""ONNX Runtime's own profile of a graph, and the operations that its nodes took."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.errors import UnsupportedError

_PRODUCTS = {
    *("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulNBits"),
}
"""Matrix products whose first input is the left side."""


def session(model: str | bytes, threads: int, profile: str | None = None) -> Any:
    """A graph on the CPU as :class:`colport.encoder.Encoder` runs it.

    Args:
        model: File name, or a serialised model.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
        profile: Prefix of the profile's file name; ``None`` makes none.

    Raises:
        UnsupportedError: The CPU has no kernel for an operator at its precision, as for bf16.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no public base
        first = str(error).splitlines()[0]
        if "NOT_IMPLEMENTED" not in first:
            raise
        raise UnsupportedError(
            f"CPUExecutionProvider has no kernel for an operator at its precision ({first})."
        ) from error


def profiled_calls(
    file: Path | str, feeds: Mapping[str, np.ndarray], threads: int, warmup: int, calls: int
) -> list[list[dict[str, Any]]]:
    """Node events of each call after the warm-up, as ONNX Runtime's profiler writes them.

    Args:
        file: An ONNX graph.
        feeds: Its inputs.
        threads: As in :func:`session`.
        warmup: Calls that are left out.
        calls: Calls that are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(str(file), threads, f"{folder}/profile")
        for _ in range(warmup + calls):
            profiled.run(None, dict(feeds))
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[warmup:]
    nodes = [event for event in events if event.get("cat") == "Node"]
    ends = [*runs[1:], math.inf]
    return [
        [event for event in nodes if start <= event["ts"] < end]
        for start, end in zip(runs, ends, strict=True)
    ]


def count_operations(file: Path, feeds: Path) -> float:
    """Multiplications and additions of one run on the CPU, from the shapes that it had.

    Args:
        file: An ONNX graph.
        feeds: A ``.npz`` with its inputs.
    """
    arrays = dict(np.load(feeds, allow_pickle=False))
    (call,) = profiled_calls(file, arrays, threads=0, warmup=0, calls=1)
    return operations(call)


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
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((inner, columns), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, rows, columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


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
    if name == "Conv":
        (output,) = _shapes(node["output_type_shape"])
        return 2.0 * math.prod(output) * math.prod(inputs[1][1:])
    return 0.0


def _left_and_output(node: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    return _shapes(node["input_type_shape"])[0], _shapes(node["output_type_shape"])[0]


def _shapes(listed: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    return [next(iter(item.values())) for item in listed]
