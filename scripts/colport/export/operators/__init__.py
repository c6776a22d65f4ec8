"""The operators that a graph is written in, chosen by its operator set.

From operator set 23 on, ONNX has a transformer's own operators: attention, RMS normalisation and
rotary embedding are one node each, which ONNX Runtime runs 2 to 5 times as fast on a CPU as the
products and sums that they stand for (``benchmarks/graphs.md``). Linear attention is ONNX Runtime's
own operator there. Before it, the plain form is written, for runtimes that do not know them.
"""

from __future__ import annotations

import onnx_ir as ir

from colport.export.operators.attention import as_operators, as_products
from colport.export.operators.linear_attention import as_linear_attention, as_scan
from colport.export.operators.normalisation import write_rms_normalisation
from colport.export.operators.rotary import write_rotary_embedding
from colport.families.attention import DOMAIN
from colport.tensors.editing import MICROSOFT, producer, remove_unused_initializers, replace

TRANSFORMER_OPSET = 23
"""First operator set with ``Attention``, ``RMSNormalization`` and ``RotaryEmbedding``."""

_FUSED_WITH_SUM = ("LayerNormalization", "Gelu")


def write_operators(model: ir.Model, opset: int) -> None:
    """Write a traced graph in the operators of ``opset``, in place."""
    graph = model.graph
    if opset < TRANSFORMER_OPSET:
        as_products(graph)
        as_scan(graph)
    else:
        write_rms_normalisation(graph)
        write_rotary_embedding(graph)
        as_operators(graph, opset)
        as_linear_attention(graph)
    remove_unused_initializers(graph)
    model.opset_imports.pop(DOMAIN, None)
    if any(node.domain == MICROSOFT for node in graph):
        model.opset_imports[MICROSOFT] = 1


def keep_sums_apart(graph: ir.Graph) -> None:
    """Write the ``Add`` before a layer norm or a GELU as ``Sum``, where nothing else reads it.

    ONNX Runtime fuses either pair on load. On a CPU its ``SkipLayerNormalization`` is not
    vectorised and takes 5 times as long as the two, its ``BiasGelu`` 1.2 times. ``Sum`` it leaves.
    """
    for node in list(graph):
        added = node.op_type in _FUSED_WITH_SUM and producer(node.inputs[0], "Add")
        if (
            added
            and len(added.outputs[0].uses()) == 1
            and node.attributes.get_string("approximate", "none") == "none"
        ):
            replace(graph, added.outputs[0], [ir.node("Sum", added.inputs)])
