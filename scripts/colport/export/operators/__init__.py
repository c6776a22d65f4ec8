"""The operators that a graph is written in, chosen by its operator set.

From operator set 23 on, ONNX has a transformer's own operators: attention, RMS normalisation and
rotary embedding are one node each, which ONNX Runtime runs 2 to 5 times as fast on a CPU as the
products and sums that they stand for (``benchmarks/graphs.md``). Before it, the plain form is
written, for runtimes that do not know them.
"""

from __future__ import annotations

import onnx_ir as ir

from colport.export.markers import DOMAIN
from colport.export.operators.attention import as_operators, as_products
from colport.export.operators.normalisation import write_rms_normalisation
from colport.export.operators.rotary import write_rotary_embedding
from colport.export.operators.sums import keep_sums_apart
from colport.tensors.editing import remove_unused_initializers

__all__ = ["TRANSFORMER_OPSET", "keep_sums_apart", "write_operators"]

TRANSFORMER_OPSET = 23
"""First operator set with ``Attention``, ``RMSNormalization`` and ``RotaryEmbedding``."""


def write_operators(model: ir.Model, opset: int) -> None:
    """Write a traced graph in the operators of ``opset``, in place."""
    graph = model.graph
    if opset < TRANSFORMER_OPSET:
        as_products(graph)
    else:
        write_rms_normalisation(graph)
        write_rotary_embedding(graph)
        as_operators(graph, opset)
    remove_unused_initializers(graph)
    model.opset_imports.pop(DOMAIN, None)
