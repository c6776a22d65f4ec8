"""Attention: ONNX's own operator, or the matrix products that it stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from colport.export.markers import ATTENTION, DOMAIN
from colport.tensors.editing import Chain, constant, permutation, producer, replace

_SWAP = [0, 2, 1, 3]


LENGTHS_OPSET = 24
"""First operator set whose ``Attention`` takes lengths. ONNX Runtime reads a mask of ``[tokens,
tokens]`` for each head, which at a page's 2944 patches takes a quarter of the time."""


def as_operators(graph: ir.Graph, opset: int) -> None:
    """Write every attention as ``Attention``, over ``[batch, tokens, width]`` where it can be."""
    for node in _attentions(graph):
        query, key, value, bias, lengths = _inputs(node)
        if lengths is not None and opset < LENGTHS_OPSET:
            bias, lengths = _bias(graph, node, key, lengths), None
        attributes = {"scale": node.attributes.get_float("scale"), "softmax_precision": 1}
        inputs = [_before_move(part) for part in (query, key, value)]
        join = _joining(node.outputs[0])
        flat = None not in inputs and join is not None
        if flat:
            attributes |= {"q_num_heads": _heads(query), "kv_num_heads": _heads(key)}
        else:
            inputs = [query, key, value]
        if bias is not None:
            inputs.append(_with_rows(graph, node, bias))
        elif lengths is not None:
            inputs += [None, None, None, lengths]
        nodes = [ir.node("Attention", inputs, attributes)]
        if flat and len(join.outputs[0].shape) != 3:
            nodes.append(ir.node("Reshape", [nodes[0].outputs[0], join.inputs[1]]))
        replace(graph, join.outputs[0] if flat else node.outputs[0], nodes)


def as_products(graph: ir.Graph) -> None:
    """Write every attention as matrix products around a softmax.

    Queries that share a key head are laid one below the other: keys are not repeated.
    """
    for node in _attentions(graph):
        query, key, value, bias, lengths = _inputs(node)
        if lengths is not None:
            bias = _bias(graph, node, key, lengths)
        shared = _heads(query) != _heads(key)
        chain, dtype = Chain(graph), node.outputs[0].type.dtype
        scale = node.attributes.get_float("scale")
        scale = chain.constant(np.array(scale, dtype.numpy()), f"scale.{scale:.9g}")
        if shared:
            below = [0, _heads(key), -1, int(query.shape[3])]
            query = chain.add("Reshape", [query, constant(graph, below)])
        turned = chain.add("Transpose", [key], {"perm": [0, 1, 3, 2]})
        scores = chain.add("MatMul", [query, turned])
        scores = chain.add("Mul", [scores, scale])
        if shared:
            apart = chain.add("Shape", [key], {"start": 2, "end": 3})
            extent = [constant(graph, [0]), constant(graph, [_heads(node.inputs[0])])]
            extent = chain.add("Concat", [*extent, constant(graph, [-1]), apart], {"axis": 0})
            scores = chain.add("Reshape", [scores, extent])
        if bias is not None:
            scores = chain.add("Add", [scores, bias])
        weights = _softmax(chain, scores, dtype)
        if shared:
            extent = [constant(graph, [0]), constant(graph, [_heads(key)]), constant(graph, [-1])]
            extent = chain.add("Concat", [*extent, apart], {"axis": 0})
            weights = chain.add("Reshape", [weights, extent])
        result = chain.add("MatMul", [weights, value])
        if shared:
            heads = [0, _heads(node.inputs[0]), -1, int(value.shape[3])]
            chain.add("Reshape", [result, constant(graph, heads)])
        replace(graph, node.outputs[0], chain.nodes)


def _softmax(chain: Chain, scores: ir.Value, dtype: ir.DataType) -> ir.Value:
    """In fp32, as the models compute it."""
    if dtype == ir.DataType.FLOAT:
        return chain.add("Softmax", [scores], {"axis": -1})
    wide = chain.add("Cast", [scores], {"to": ir.DataType.FLOAT})
    weights = chain.add("Softmax", [wide], {"axis": -1})
    return chain.add("Cast", [weights], {"to": dtype})


def _attentions(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in list(graph):
        if (node.domain, node.op_type) == (DOMAIN, ATTENTION):
            yield node


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    """Query, key, value, bias and lengths; the last two may be ``None``."""
    return [*node.inputs, None, None][:5]


def _bias(graph: ir.Graph, place: ir.Node, key: ir.Value, lengths: ir.Value) -> ir.Value:
    """``[batch, 1, 1, tokens]``: the lowest number where a key is padding."""
    dtype, chain = key.dtype, Chain(graph)
    lowest = float(ml_dtypes.finfo(dtype.numpy()).min)
    lowest = chain.constant(np.array(lowest, dtype.numpy()), f"lowest.{dtype.name.lower()}")
    tokens = chain.add("Shape", [key], {"start": 2, "end": 3})
    ones = chain.add("Expand", [constant(graph, [1]), tokens])
    counts = chain.add("CumSum", [ones, constant(graph, [0])])  # 1, 2, … tokens
    column = chain.add("Unsqueeze", [lengths, constant(graph, [1])])
    padding = chain.add("Greater", [counts, column])
    bias = chain.add("Mul", [chain.add("Cast", [padding], {"to": dtype}), lowest])
    bias = chain.add("Unsqueeze", [bias, constant(graph, [1, 2])])
    bias.shape = ir.Shape([lengths.shape[0], 1, 1, key.shape[2]])
    bias.type = key.type
    graph.insert_before(place, chain.nodes)
    return bias


def _heads(value: ir.Value) -> int:
    return int(value.shape[1])


def _before_move(value: ir.Value) -> ir.Value | None:
    """``[batch, tokens, width]`` whose heads were split off and moved forward."""
    move = producer(value, "Transpose")
    split = move and producer(move.inputs[0], "Reshape")
    if not split or permutation(move) != _SWAP:
        return None
    return split.inputs[0] if len(split.inputs[0].shape or ()) == 3 else None


def _joining(value: ir.Value) -> ir.Node | None:
    """The ``Reshape`` that joins the heads to ``[…, width]``, once they are moved back."""
    for operator in ("Transpose", "Reshape"):
        uses = value.uses()
        if len(uses) != 1 or uses[0].node.op_type != operator:
            return None
        node = uses[0].node
        if operator == "Transpose" and permutation(node) != _SWAP:
            return None
        value, split = node.outputs[0], value
    if value.shape is None or not all(isinstance(size, int) for size in split.shape[2:]):
        return None
    return node if value.shape[-1] == math.prod(split.shape[2:]) else None


def _with_rows(graph: ir.Graph, place: ir.Node, bias: ir.Value) -> ir.Value:
    """The bias with a row for each query: ONNX Runtime does not broadcast that axis."""
    if bias.shape[2] != 1:
        return bias
    for reader, _ in bias.uses():
        if reader.op_type == "Expand":
            return reader.outputs[0]
    one = constant(graph, [1])
    tokens = ir.node("Shape", [bias], {"start": 3, "end": 4})
    extent = ir.node("Concat", [one, one, tokens.outputs[0], one], {"axis": 0})
    rows = ir.node("Expand", [bias, extent.outputs[0]])
    rows.outputs[0].shape = ir.Shape([*bias.shape[:2], bias.shape[3], bias.shape[3]])
    rows.outputs[0].type = bias.type
    graph.insert_before(place, [tokens, extent, rows])
    return rows.outputs[0]
