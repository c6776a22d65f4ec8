"""The gated delta rule (Yang et al. 2024, arXiv:2412.06464): one operator, or a scan over tokens.

Each head keeps a state ``S [key size, value size]``. A token lets it decay, corrects what it holds
for the token's key, and reads it with the token's query: ``S = exp(decay) S``, ``S += kᵀ beta
(v - k S)``, ``scale q S``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from colport.families.attention import DOMAIN, GATED_DELTA_RULE
from colport.tensors.editing import MICROSOFT, Chain, constant, replace

_FLOAT = ir.TensorType(ir.DataType.FLOAT)
_STATE = "rule.state"
_READ = ("rule.query", "rule.key", "rule.turned", "rule.value", "rule.decay", "rule.beta")
"""What a step of the scan reads of a token."""


def as_linear_attention(graph: ir.Graph) -> None:
    """Write every gated delta rule as ONNX Runtime's own operator."""
    for node, (value, query, key, decay, beta), heads, scale in _rules(graph):
        attributes = {
            "q_num_heads": heads[0],
            "kv_num_heads": heads[1],
            "scale": scale,
            "update_rule": "gated_delta",
        }
        inputs = [query, key, value, None, decay, beta]
        operator = ir.node("LinearAttention", inputs, attributes, domain=MICROSOFT, num_outputs=2)
        operator.outputs[1].type = _FLOAT  # the state behind the last token, which nothing reads
        replace(graph, node.outputs[0], [operator])


def as_scan(graph: ir.Graph) -> None:
    """Write every gated delta rule as a ``Scan`` over tokens.

    Value heads that share a key head lie on an axis of their own: keys are not repeated.
    """
    for node, (value, query, key, decay, beta), (shared, heads), scale in _rules(graph):
        chain, group = Chain(graph), heads // shared
        sizes = [int(states.shape[2]) // count for states, count in ((key, shared), (value, heads))]

        def apart(states: ir.Value, *sizes: int, chain: Chain = chain) -> ir.Value:
            return chain.add("Reshape", [states, constant(graph, [0, -1, *sizes])])

        factor = chain.constant(np.array(scale, np.float32), f"rule.scale.{scale:.9g}")
        read = [
            chain.add("Mul", [apart(query, shared, 1, 1, sizes[0]), factor]),
            apart(key, shared, 1, 1, sizes[0]),
            apart(key, shared, 1, sizes[0], 1),
            apart(value, shared, group, 1, sizes[1]),
            chain.add("Exp", [apart(decay, shared, group, 1, 1)]),
            apart(beta, shared, group, 1, 1),
        ]
        batch = chain.add("Shape", [query], {"start": 0, "end": 1})
        extent = chain.add("Concat", [batch, constant(graph, [shared, group, *sizes])], {"axis": 0})
        zero = chain.constant(np.zeros(1, np.float32), "rule.zero")
        scan = {
            "body": _step(),
            "num_scan_inputs": len(read),
            "scan_input_axes": [1] * len(read),
            "scan_output_axes": [1],
        }
        _, tokens = chain.add("Scan", [chain.add("Expand", [zero, extent]), *read], scan, outputs=2)
        chain.add("Reshape", [tokens, constant(graph, [0, 0, heads * sizes[1]])])
        replace(graph, node.outputs[0], chain.nodes)


def _step() -> ir.Graph:
    """What is computed for each token: the state behind it, and what is read there."""
    nodes: list[ir.Node] = []

    def add(operator: str, name: str, *inputs: ir.Value) -> ir.Value:
        output = ir.Value(name=f"rule.{name}", type=_FLOAT, shape=ir.Shape([None] * 5))
        nodes.append(ir.node(operator, inputs, outputs=[output], name=output.name))
        return output

    given = [ir.Value(name=n, type=_FLOAT, shape=ir.Shape([None] * 5)) for n in (_STATE, *_READ)]
    state, query, key, turned, value, decay, beta = given
    state = add("Mul", "decayed", state, decay)
    error = add("Sub", "error", value, add("MatMul", "known", key, state))
    change = add("MatMul", "change", turned, add("Mul", "correction", error, beta))
    state = add("Add", "next", state, change)
    return ir.Graph(given, [state, add("MatMul", "read", query, state)], nodes=nodes, name="rule")


def _rules(graph: ir.Graph) -> Iterator[tuple[ir.Node, list[Any], tuple[int, int], float]]:
    """Each with its inputs, the heads of keys and of values, and the scale of queries."""
    for node in list(graph):
        if (node.domain, node.op_type) == (DOMAIN, GATED_DELTA_RULE):
            of = node.attributes
            heads = of.get_int("key_heads"), of.get_int("heads")
            yield node, list(node.inputs), heads, of.get_float("scale")
