"""RMS normalisation (Zhang and Sennrich 2019, arXiv:1910.07467) as one operator."""

from __future__ import annotations

import onnx_ir as ir

from colport.tensors.editing import only_reader, producer, replace, scalar


def write_rms_normalisation(graph: ir.Graph) -> None:
    """Write ``x / sqrt(mean(x²) + epsilon) * weight`` as ``RMSNormalization``."""
    for node in list(graph):
        if node.op_type == "Reciprocal":
            _rms_normalisation(graph, node)


def _rms_normalisation(graph: ir.Graph, reciprocal: ir.Node) -> None:
    root = producer(reciprocal.inputs[0], "Sqrt")
    shifted = root and producer(root.inputs[0], "Add")
    mean = shifted and producer(shifted.inputs[0], "ReduceMean")
    square = mean and producer(mean.inputs[0], "Pow")
    if not square or scalar(square.inputs[1]) != 2 or scalar(mean.inputs[1]) != -1:
        return
    hidden, epsilon = square.inputs[0], scalar(shifted.inputs[1])
    scaled = only_reader(reciprocal.outputs[0], "Mul")
    if epsilon is None or scaled is None or hidden not in scaled.inputs:
        return
    normalised = scaled.outputs[0]
    if narrowed := only_reader(normalised, "Cast"):  # computed in fp32 inside an fp16 graph
        widened = producer(hidden, "Cast")
        if widened is None or widened.inputs[0].dtype != narrowed.outputs[0].dtype:
            return
        hidden, normalised = widened.inputs[0], narrowed.outputs[0]
    weighted = only_reader(normalised, "Mul")
    if weighted is None:
        return
    (weight,) = [value for value in weighted.inputs if value is not normalised]
    if weight.shape is None or len(weight.shape) != 1:
        return
    new = ir.node("RMSNormalization", [hidden, weight], {"epsilon": epsilon, "axis": -1})
    replace(graph, weighted.outputs[0], [new])
