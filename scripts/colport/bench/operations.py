"""How many operations a graph takes: matrix products and attention, counted from one run."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def count_operations(file: Path, feeds: Path) -> float:
    """Multiplications and additions of one run on the CPU, from the shapes that it had.

    Args:
        file: An ONNX graph.
        feeds: A ``.npz`` with its inputs.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        arrays = np.load(feeds)
        session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(
        _operations(event["args"])
        for event in events
        if event.get("cat") == "Node" and "output_type_shape" in event.get("args", {})
    )


def _operations(node: dict[str, Any]) -> float:
    inputs, outputs = _shapes(node["input_type_shape"]), _shapes(node["output_type_shape"])
    if node["op_name"] in ("MatMul", "Gemm", "FusedMatMul"):
        # The right side is not listed where it is a weight that was packed at load.
        return 2.0 * math.prod(outputs[0]) * inputs[0][-1]
    if node["op_name"] == "Attention":
        query, key = inputs[:2]
        return 4.0 * math.prod(query) * key[-2]
    return 0.0


def _shapes(listed: list[dict[str, list[int]]]) -> list[list[int]]:
    return [next(iter(item.values())) for item in listed]
