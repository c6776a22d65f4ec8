"""Small steps of a graph rewrite: find what made a value, put nodes in a node's place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that makes a value, if it is one of these operators."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators and not node.domain else None


def only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """The node that reads a value, if it is the only one and this operator."""
    uses = value.uses()
    is_it = len(uses) == 1 and uses[0].node.op_type == operator
    return uses[0].node if is_it else None


def scalar(value: ir.Value | None) -> float | None:
    """The value of a constant with one element."""
    tensor = None if value is None else value.const_value
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def permutation(node: ir.Node) -> list[int]:
    """``perm`` of a ``Transpose``."""
    return list(node.attributes["perm"].as_ints())


def constant(graph: ir.Graph, values: Sequence[int]) -> ir.Value:
    """An ``int64`` initializer of these values, shared by all who ask for them."""
    name = f"int64.{'.'.join(map(str, values))}"
    return stored(graph, ir.tensor(np.array(values, np.int64), name=name))


def stored(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer of the tensor's name, made of the tensor if there is none."""
    if tensor.name not in graph.initializers:
        declared(graph, tensor.name, tensor.shape, tensor.dtype).const_value = tensor
    return graph.initializers[tensor.name]


def declared(graph: ir.Graph, name: str, shape: Iterable[int], dtype: ir.DataType) -> ir.Value:
    """The initializer of a name, made without a value if there is none."""
    if name not in graph.initializers:
        value = ir.Value(name=name, shape=ir.Shape(list(shape)), type=ir.TensorType(dtype))
        graph.initializers.add(value)
    return graph.initializers[name]


def replace(graph: ir.Graph, old: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put ``nodes`` before the one that makes ``old``; the last one's output takes its place."""
    place, new = old.producer(), nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    if old.is_graph_output():  # by whose name others ask for it
        old.name, new.name = None, old.name
    graph.insert_before(place, nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    remove_unread(graph, place)


def remove_unread(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nothing reads, and what it alone read."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.graph is not graph or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        before = [value.producer() for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        waiting.extend(node for node in before if node is not None)


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drop initializers that no node reads."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)


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
