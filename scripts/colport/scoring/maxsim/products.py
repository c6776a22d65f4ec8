"""Matrix products of token embeddings in ONNX Runtime, on one thread, into given memory.

On processors with AVX-512 its product is twice as fast as NumPy's OpenBLAS
(``benchmarks/maxsim.md``). The graphs beside this module are written by ``tests/stored_graphs.py``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from colport.base.library import onnxruntime


def multiply(rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """``out = rows @ columns``, all float32 and contiguous, summed in float32."""
    _run("multiply", {"rows": rows, "columns": columns}, {"products": out})


def widen(halves: np.ndarray, out: np.ndarray) -> None:
    """Copy float16 to float32, both contiguous; ten times as fast as NumPy 2.4."""
    _run("widen", {"halves": halves}, {"singles": out})


def graph_file(name: str) -> Path:
    """Where a graph of this module is stored: ``multiply`` or ``widen``."""
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
