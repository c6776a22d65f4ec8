"""Graph clean-up that never reads a weight: folding of shapes and constants, dead code."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import optimizer

from colport.export.logs import quiet

_FOLD_BYTES = 2**16  # larger results would only make the graph file bigger


def optimise(model: ir.Model) -> None:
    """Fold constants, drop what nothing reads and torch's trace notes, in place."""
    with quiet():
        optimizer.optimize_ir(
            model, input_size_limit=_FOLD_BYTES, output_size_limit=_FOLD_BYTES, num_iterations=2
        )
    for name in [n for n, value in model.graph.initializers.items() if not value.uses()]:
        model.graph.initializers.pop(name)
    _forget_trace(model)


def _forget_trace(model: ir.Model) -> None:
    """Drop stack traces and source notes: most of a traced graph file's size."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
