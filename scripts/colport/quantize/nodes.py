"""Nodes of a rewrite, written one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from colport.tensors.editing import stored

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


class Chain:
    """Nodes that will take another one's place, and the initializers that they read.

    Attributes:
        nodes: In their order.
        suffix: Ends the names of new initializers.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes: list[ir.Node] = []
        self.suffix = ""
        self._graph = graph

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        """Append a node; its output, or all of several."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        node = ir.node(operator, inputs, attributes, domain=domain, num_outputs=outputs)
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def stored(self, tensor: ir.TensorProtocol) -> ir.Value:
        """The initializer of this tensor's name, which is made if there is none."""
        tensor.name = f"{tensor.name}{self.suffix}"
        return stored(self._graph, tensor)

    def constant(self, values: np.ndarray | np.generic, name: str) -> ir.Value:
        """An initializer of these values."""
        return self.stored(ir.tensor(np.asarray(values), name=name))
