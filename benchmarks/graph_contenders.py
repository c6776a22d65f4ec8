"""What runs in processes of the graph benchmark: one graph in PyTorch or in ONNX Runtime.

In a worker each encodes the arrays of one file, whatever inputs it is given: these are one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.measure import operations

if TYPE_CHECKING:
    import torch

    from colport.families.base import GraphDefinition, Skeleton


class Call:
    """An encoder for the worker whose every call is the same."""

    def __init__(self, run: Callable[[], np.ndarray]) -> None:
        self._run = run

    def encode_queries(self, inputs: Sequence[Any], batch_size: int) -> list[np.ndarray]:
        """The call's output, one ``[tokens, dim]`` a row."""
        return list(self._run())

    encode_documents = encode_queries


def onnx_graph(file: str, feeds: str, threads: int) -> Call:
    """A graph in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        file, _options(threads), providers=["CPUExecutionProvider"]
    )
    arrays = np.load(feeds, allow_pickle=False)
    given = {value.name: arrays[value.name] for value in session.get_inputs()}
    return Call(lambda: session.run(None, given)[0])


def eager(checkpoint: str, family: str, graph: str, feeds: str) -> Call:
    """The module that is traced, in PyTorch with fp32 weights and SDPA attention."""
    import torch

    model, definition = real_module(Path(checkpoint), family, graph, "sdpa")
    arrays = np.load(feeds, allow_pickle=False)
    inputs = [torch.from_numpy(arrays[item.name]) for item in definition.inputs]

    def run() -> np.ndarray:
        with torch.inference_mode():
            return definition.forward(model, *inputs).numpy()

    return Call(run)


def page_model(checkpoint: str, family: str, page: str) -> Call:
    """A page model in its own library, fp32, after its own preprocessing."""
    from PIL import Image

    from colport.families import registry

    reference = registry.get(family).reference(Path(checkpoint), "cpu", math.inf)
    with Image.open(page) as image:
        features = reference.prepare_documents([image])
    return Call(lambda: reference.run(features))


def matmul(batch: int, rows: int, inner: int, columns: int, threads: int) -> Call:
    """One fp32 matrix product in ONNX Runtime, its right side stored in the graph."""
    import onnxruntime

    values = {"x": np.random.default_rng(0).standard_normal((batch, rows, inner), np.float32)}
    session = onnxruntime.InferenceSession(
        operations.matmul(rows, inner, columns, batch),
        _options(threads),
        providers=["CPUExecutionProvider"],
    )
    return Call(lambda: session.run(None, values)[0])


def loaded_megabytes(folder: str, shared: bool) -> float:
    """MB that an encoder adds to this process beside its mapped files."""
    from benchmarks.processes import anonymous_mb
    from colport.runtime.encoder import Encoder

    before = anonymous_mb()
    encoder = Encoder(folder, share_weights=shared)
    added = anonymous_mb() - before
    del encoder
    return added * 2**20 / 1e6


def real_module(
    checkpoint: Path, family: str, graph: str, attention: str
) -> tuple[torch.nn.Module, GraphDefinition]:
    """The traced module with its weights in memory, fp32, and what is traced of it.

    Args:
        checkpoint: A checkpoint folder.
        family: Family name.
        graph: ``text`` or ``image``.
        attention: transformers' name of the attention, as ``eager`` or ``sdpa``.
    """
    from colport.families import registry

    skeleton = registry.get(family).skeleton(checkpoint, "fp32")
    model = _materialised(skeleton)
    for module in model.modules():
        if hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation(attention)
    (definition,) = [item for item in skeleton.graphs if item.name == graph]
    return model, definition


def _materialised(skeleton: Skeleton) -> torch.nn.Module:
    import torch

    model = skeleton.model.to_empty(device="cpu")
    values = {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, target in values.items():
            if name in skeleton.constants:
                target.copy_(skeleton.constants[name])
            elif name in skeleton.tensors:
                stored = np.asarray(skeleton.tensors[name].read(), np.float32)
                target.copy_(torch.from_numpy(stored))
    return model.eval()


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return options
