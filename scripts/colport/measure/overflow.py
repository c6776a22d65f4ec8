"""Whether an fp16 folder's activations fit fp16, on a machine that computes them in fp32.

ONNX Runtime's CPU widens fp16 graphs, so that a folder whose activations overflow on a GPU passes
every comparison there. A copy of each graph says how large they become: in fp32, with the folder's
own weights, a maximum and a minimum behind every fp16 value. bf16 has fp32's range: what is finite
in fp32 is finite in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.base.errors import UnsupportedError
from colport.base.files import scratch_folder
from colport.base.library import onnxruntime
from colport.families import registry
from colport.families.base import Batch, Document
from colport.folder.manifest import Manifest
from colport.providers import ProviderSettings

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = float(np.finfo(np.float16).max)
"""Largest number of fp16."""

_SCORES = 3  # place of the scores among the outputs of Attention, and of the mask among its inputs
_EXTREMES = {"high": "ReduceMax", "low": "ReduceMin"}
_KEEPS_SIGN = ("Add", "Cast", "Expand", "Identity", "Reshape", "Transpose", "Unsqueeze", "Where")


@dataclass(frozen=True)
class Peak:
    """The largest absolute value of one activation.

    Attributes:
        graph: Name of the graph.
        operator: ``MatMul``, ``Add`` …
        node: Name of the node that gives it.
        value: What it reached, in fp32.
    """

    graph: str
    operator: str
    node: str
    value: float

    @property
    def overflows(self) -> bool:
        """Whether fp16 has no number for it."""
        return not self.value <= LARGEST

    def __str__(self) -> str:
        return f"{self.operator} {self.node!r} of the {self.graph} graph gives {self.value:.3g}"


@dataclass(frozen=True)
class Reach:
    """How large the activations of one kind of input become.

    Attributes:
        largest: The largest of all.
        first: The first in the graph's order that overflows, the cause of the others; maybe none.
    """

    largest: Peak
    first: Peak | None


def reaches(
    folder: Path,
    manifest: Manifest | None,
    provider: str | Mapping[str, Any],
    queries: Sequence[str],
    documents: Sequence[Document],
    scratch: Path,
) -> dict[str, Reach]:
    """How large the activations of ``query`` and ``document`` inputs become, one input at a time.

    Memory is that of a run in fp32; the disk holds the weights in fp32 meanwhile.

    Args:
        folder: An exported folder.
        manifest: What it is. Nothing is run and nothing returned unless its precision is fp16.
        provider: What runs it, see :class:`colport.runtime.encoder.Encoder`. Nothing is run and
            nothing returned for one with memory of its own, which computes in fp16.
        queries: Query texts.
        documents: Pages or passages.
        scratch: A place on the disk to write to; nothing stays there.

    Raises:
        UnsupportedError: A graph has values whose type or size cannot be seen.
    """
    on_host = ProviderSettings.of(provider).provider.memory == "cpu"
    if manifest is None or manifest.precision != "fp16" or not on_host:
        return {}
    from colport.folder import graphs  # here: onnx_ir takes half a second, and most jobs end above

    runtime = registry.get(manifest.family).runtime(manifest.processing, folder)
    batches = {
        "query": (runtime.query_batch([query]) for query in queries),
        "document": (runtime.document_batch([document]) for document in documents),
    }
    return measure(graphs.read(folder, manifest), batches, scratch)


def measure(
    models: Mapping[str, ir.Model], batches: Mapping[str, Iterable[Batch]], scratch: Path
) -> dict[str, Reach]:
    """How large the activations of each kind of input become.

    Args:
        models: Graphs in fp16 by name; they are widened, and left with further outputs.
        batches: Kind to inputs of these graphs.
        scratch: See :func:`reaches`.

    Raises:
        UnsupportedError: See :func:`reaches`.
    """
    from colport.quantize.calibration import open_sessions

    taps = {name: _tap(name, model) for name, model in models.items()}
    with scratch_folder(scratch) as place:
        order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # else all activations are kept
        sessions = open_sessions(models, place / "fp32", order)
        return {kind: _reach(sessions, taps, given) for kind, given in batches.items()}


def _reach(
    sessions: Mapping[str, onnxruntime.InferenceSession],
    taps: Mapping[str, Mapping[str, ir.Node]],
    batches: Iterable[Batch],
) -> Reach:
    peaks: dict[str, Peak] = {}
    for batch in batches:
        watched = taps[batch.graph]
        values = sessions[batch.graph].run(list(watched), batch.feeds)
        for (output, node), value in zip(watched.items(), values, strict=True):
            size = float(-value if output.startswith("low.") else value)
            if output not in peaks or not size <= peaks[output].value:
                peaks[output] = Peak(batch.graph, node.op_type, node.name, size)
    largest = max(peaks.values(), key=lambda peak: np.nan_to_num(peak.value, nan=np.inf))
    return Reach(largest, next((peak for peak in peaks.values() if peak.overflows), None))


def _tap(name: str, model: ir.Model) -> dict[str, ir.Node]:
    """Widen a graph and make the extremes of its fp16 values outputs; output name to node."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    from colport.quantize.widen import widen

    common.ShapeInferencePass()(model)
    graph = model.graph
    half = []
    for node in list(graph):
        _show_scores(node)
        for value in node.outputs:
            if value.name and value.dtype is None:
                raise UnsupportedError(
                    f"{name} graph: the type of {value.name!r}, which {node.op_type} gives, is not "
                    "known; whether it fits fp16 cannot be checked."
                )
            if value.name and value.dtype == ir.DataType.FLOAT16:
                half.append(value)
        if any(value.dtype != ir.DataType.FLOAT for value in _inner_values(node)):
            raise UnsupportedError(
                f"{name} graph: {node.op_type} {node.name!r} holds a graph of its own; whether its "
                "activations fit fp16 cannot be checked."
            )
    widen(model)
    taps: dict[str, ir.Node] = {}
    for number, value in enumerate(half):
        node = value.producer()
        extremes = {"high": "ReduceMax"} if _is_score(value) else _EXTREMES
        for end, operator in extremes.items():
            output = ir.Value(name=f"{end}.{number}", type=ir.TensorType(ir.DataType.FLOAT))
            scalar = [ir.AttrInt64("keepdims", 0)]
            graph.insert_after(node, ir.Node("", operator, [value], scalar, outputs=[output]))
            graph.outputs.append(output)
            taps[output.name] = node
    return taps


def _inner_values(node: ir.Node) -> Iterator[ir.Value]:
    """What is computed in the graphs that a node holds."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            several = attribute.type == ir.AttributeType.GRAPHS
            for graph in attribute.value if several else [attribute.value]:
                yield from (value for inner in graph.all_nodes() for value in inner.outputs)


def _show_scores(node: ir.Node) -> None:
    """Make the scores of an attention one of its outputs."""
    if (node.domain, node.op_type) != ("", "Attention") or len(node.outputs) > 1:
        return
    known = node.outputs[0]
    node.resize_outputs(_SCORES + 1)
    for place, value in enumerate(node.outputs[1:], 1):
        value.name = f"{known.name}.scores" if place == _SCORES else ""
    node.outputs[_SCORES].type = known.type


def _is_score(value: ir.Value) -> bool:
    """Whether a value is only ever a score or a mask: its lowest numbers stand for no attention,
    and minus infinity does so, too."""
    node = value.producer()
    if node.op_type == "Attention" and node.outputs.index(value) == _SCORES:
        return True
    uses = value.uses()
    return bool(uses) and all(
        use.node.op_type == "Softmax"
        or (use.node.op_type == "Attention" and use.idx == _SCORES)
        or (use.node.op_type in _KEEPS_SIGN and _is_score(use.node.outputs[0]))
        for use in uses
    )
