"""Matrix products of token embeddings in ONNX Runtime, on one thread, into given memory.

On processors with AVX-512 its float product is twice as fast as NumPy's OpenBLAS, its 8-bit one
six times (``benchmarks/maxsim.md``). The graphs beside this module are written by :func:`graph`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    import onnx

GRAPHS = ("multiply", "multiply_int8", "widen")
"""Files ``<name>.onnx`` in the folder ``graphs`` beside this module."""

COLUMN_STEPS = 63
"""Steps on each side of zero of a quantized query component.

Seven bits: without VNNI the product of two 8-bit numbers is summed in pairs in 16 bits, and
2 * 255 * 63 is the most that fits (ONNX Runtime, "Quantize ONNX models", on ``reduce_range``).
"""


def multiply(rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """``out = rows @ columns``, all float32 and contiguous, summed in float32."""
    _run("multiply", {"rows": rows, "columns": columns}, {"products": out})


def multiply_int8(rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> float:
    """``out = round(rows / step) @ columns``, summed exactly.

    Args:
        rows: ``[m, k]`` float32, contiguous and finite; quantized to 255 steps between their
            smallest and their largest value.
        columns: ``[k, n]`` int8 of at most :data:`COLUMN_STEPS`.
        out: ``[m, n]`` int32.

    Returns:
        ``step``.
    """
    step = np.empty((), np.float32)
    _run("multiply_int8", {"rows": rows, "columns": columns}, {"products": out, "step": step})
    return float(step)


def widen(halves: np.ndarray, out: np.ndarray) -> None:
    """Copy float16 to float32, both contiguous; ten times as fast as NumPy 2.4."""
    _run("widen", {"halves": halves}, {"singles": out})


def graph(name: str) -> onnx.ModelProto:
    """Build one of :data:`GRAPHS`; needs ``onnx``, which running them does not."""
    from onnx import TensorProto, helper

    kinds = {
        "rows": (TensorProto.FLOAT, ["m", "k"]),
        "columns": (TensorProto.FLOAT, ["k", "n"]),
        "products": (TensorProto.FLOAT, ["m", "n"]),
        "halves": (TensorProto.FLOAT16, ["m", "k"]),
        "singles": (TensorProto.FLOAT, ["m", "k"]),
        "step": (TensorProto.FLOAT, []),
    }
    if name == "multiply":
        nodes = [helper.make_node("MatMul", ["rows", "columns"], ["products"])]
        inputs, outputs = ["rows", "columns"], ["products"]
    elif name == "multiply_int8":
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["rows"], ["rounded", "step", "zero"]),
            helper.make_node("MatMulInteger", ["rounded", "columns", "zero"], ["products"]),
        ]
        inputs, outputs = ["rows", "columns"], ["products", "step"]
        kinds["columns"] = (TensorProto.INT8, ["k", "n"])
        kinds["products"] = (TensorProto.INT32, ["m", "n"])
    else:
        nodes = [helper.make_node("Cast", ["halves"], ["singles"], to=TensorProto.FLOAT)]
        inputs, outputs = ["halves"], ["singles"]
    body = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *kinds[key]) for key in inputs],
        [helper.make_tensor_value_info(key, *kinds[key]) for key in outputs],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


def graph_file(name: str) -> Path:
    """Where one of :data:`GRAPHS` is stored."""
    return Path(__file__).parent / "graphs" / f"{name}.onnx"


@cache
def _session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep what the largest call needed
    return onnxruntime.InferenceSession(
        graph_file(name), options, providers=["CPUExecutionProvider"]
    )


def _run(name: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    """Run a graph on arrays where they are; ONNX Runtime neither copies nor allocates them."""
    session = _session(name)
    binding = session.io_binding()
    for key, array in inputs.items():
        binding.bind_input(key, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for key, array in outputs.items():
        binding.bind_output(key, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)


def write_graphs() -> None:
    """Store the graphs anew: ``python -m colport.scoring.maxsim.products``."""
    graph_file("").parent.mkdir(exist_ok=True)
    for name in GRAPHS:
        graph_file(name).write_bytes(graph(name).SerializeToString())


if __name__ == "__main__":
    write_graphs()
