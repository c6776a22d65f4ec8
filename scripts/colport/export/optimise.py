"""Graph clean-up that never reads a weight: folding of shapes and constants, dead code."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter

from colport.tensors.editing import remove_unused_initializers

_FOLD_BYTES = 2**16  # larger results would only make the graph file bigger


def optimise(model: ir.Model) -> None:
    """Fold constants, drop what nothing reads and torch's trace notes, in place.

    Constants become initializers and equal expressions one before patterns are searched: a third
    of the nodes is left by then, and the search is what takes the time.
    """
    with quiet():
        common.InlinePass()(model)
        _fold(model)
        rewriter.rewrite(model)
        _fold(model)
        common.OutputFixPass()(model)
        common.NameFixPass()(model)
    remove_unused_initializers(model.graph)
    _forget_trace(model)


def _fold(model: ir.Model) -> None:
    optimizer.fold_constants(
        model,
        onnx_shape_inference=False,
        input_size_limit=_FOLD_BYTES,
        output_size_limit=_FOLD_BYTES,
    )
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)


def _forget_trace(model: ir.Model) -> None:
    """Drop stack traces and source notes: most of a traced graph file's size.

    onnx_ir's ``ClearMetadataAndDocStringPass`` leaves those of values.
    """
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *made):
        value.metadata_props.clear()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of tracing and graph tools inside the block; errors are raised as ever.

    torch prints the graph of a trace that failed to standard error.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
