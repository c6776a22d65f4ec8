"""Matrix products of token embeddings in ONNX Runtime, on one thread, into given memory.

On processors with AVX-512 its product is twice as fast as NumPy's OpenBLAS
(``benchmarks/maxsim.md``). The graphs beside this module are written by :func:`graph`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    import onnx

GRAPHS = {
    "multiply": """multiply (float[m, k] rows, float[k, n] columns) => (float[m, n] products) {
        products = MatMul (rows, columns)
    }""",
    "widen": """widen (float16[m, k] halves) => (float[m, k] singles) {
        singles = Cast <to: int = 1> (halves)
    }""",
}
"""Files ``<name>.onnx`` in the folder ``graphs`` beside this module, in ONNX's text format."""


def multiply(rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """``out = rows @ columns``, all float32 and contiguous, summed in float32."""
    _run("multiply", {"rows": rows, "columns": columns}, {"products": out})


def widen(halves: np.ndarray, out: np.ndarray) -> None:
    """Copy float16 to float32, both contiguous; ten times as fast as NumPy 2.4."""
    _run("widen", {"halves": halves}, {"singles": out})


def graph(name: str) -> onnx.ModelProto:
    """Build one of :data:`GRAPHS`; needs ``onnx``, which running them does not."""
    from onnx import helper, parser

    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(parser.parse_graph(GRAPHS[name]), opset_imports=opsets, ir_version=9)


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
