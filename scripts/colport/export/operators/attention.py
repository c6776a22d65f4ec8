"""Attention: ONNX's own operator, or the matrix products that it stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from colport.families.attention import ATTENTION, DOMAIN
from colport.tensors.editing import Chain, constant, only_reader, permutation, producer, replace

SWAP = [0, 2, 1, 3]
"""How heads are moved before their tokens, and back."""

LENGTHS_OPSET = 24
"""First operator set whose ``Attention`` takes lengths. ONNX Runtime reads a mask of ``[tokens,
tokens]`` for each head, which at a page's 2944 patches takes a quarter of the time."""


def as_operators(graph: ir.Graph, opset: int) -> None:
    """Write every attention as ``Attention``, over ``[batch, tokens, width]`` where it can be."""
    for node, query, key, value, bias, lengths in _attentions(graph):
        if lengths is not None and opset < LENGTHS_OPSET:
            bias, lengths = _bias(graph, node, key, lengths), None
        attributes = {"scale": node.attributes.get_float("scale"), "softmax_precision": 1}
        inputs, (output, shape) = [query, key, value], _moved_back(graph, node.outputs[0])
        unmoved = [before_move(part) for part in inputs]
        if output is None or None in unmoved:
            output, shape = node.outputs[0], None
        else:
            inputs = [flattened(graph, states) for states in unmoved]
            attributes |= {"q_num_heads": _heads(query), "kv_num_heads": _heads(key)}
        if bias is not None:
            inputs.append(_with_rows(graph, node, bias))
        elif lengths is not None:
            inputs += [None, None, None, lengths]
        nodes = [ir.node("Attention", inputs, attributes)]
        if shape is not None:
            nodes.append(ir.node("Reshape", [nodes[0].outputs[0], shape]))
        replace(graph, output, nodes)


def as_products(graph: ir.Graph) -> None:
    """Write every attention as matrix products around a softmax.

    Queries that share a key head are laid one below the other: keys are not repeated.
    """
    for node, query, key, value, bias, lengths in _attentions(graph):
        if lengths is not None:
            bias = _bias(graph, node, key, lengths)
        shared = _heads(query) != _heads(key)
        chain, dtype = Chain(graph), node.outputs[0].type.dtype
        scale = node.attributes.get_float("scale")
        scale = chain.constant(np.array(scale, dtype.numpy()), f"scale.{scale:.9g}")
        if shared:
            below = [0, _heads(key), -1, int(query.shape[3])]
            rows = chain.add("Reshape", [query, constant(graph, below)])
        turned = chain.add("Transpose", [key], {"perm": [0, 1, 3, 2]})
        scores = chain.add("MatMul", [rows if shared else query, turned])
        scores = chain.add("Mul", [scores, scale])
        if shared:
            apart = chain.add("Shape", [key], {"start": 2, "end": 3})
            scores = chain.add("Reshape", [scores, _extent(chain, graph, query, apart)])
        if bias is not None:
            scores = chain.add("Add", [scores, bias])
        if dtype != ir.DataType.FLOAT:  # in fp32, as the models compute it
            scores = chain.add("Cast", [scores], {"to": ir.DataType.FLOAT})
        weights = chain.add("Softmax", [scores], {"axis": -1})
        if dtype != ir.DataType.FLOAT:
            weights = chain.add("Cast", [weights], {"to": dtype})
        if shared:
            weights = chain.add("Reshape", [weights, _extent(chain, graph, key, apart)])
        result = chain.add("MatMul", [weights, value])
        if shared:
            heads = [0, _heads(query), -1, int(value.shape[3])]
            chain.add("Reshape", [result, constant(graph, heads)])
        replace(graph, node.outputs[0], chain.nodes)


def _extent(chain: Chain, graph: ir.Graph, states: ir.Value, keys: ir.Value) -> ir.Value:
    """The shape of scores ``[batch, heads of the states, rows, keys]``."""
    known = [constant(graph, [size]) for size in (0, _heads(states), -1)]
    return chain.add("Concat", [*known, keys], {"axis": 0})


def _attentions(graph: ir.Graph) -> Iterator[tuple[Any, ...]]:
    """Each with query, key, value, bias and lengths; the last two may be ``None``."""
    for node in list(graph):
        if (node.domain, node.op_type) == (DOMAIN, ATTENTION):
            yield node, *[*node.inputs, None, None][:5]


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


def before_move(value: ir.Value) -> ir.Value | None:
    """Heads ``[batch, tokens, heads, size]`` of which ``value`` has the heads before the tokens."""
    move = producer(value, "Transpose")
    if not move or permutation(move) != SWAP or (shape := move.inputs[0].shape) is None:
        return None
    return move.inputs[0] if all(isinstance(size, int) for size in shape[2:]) else None


def flattened(graph: ir.Graph, heads: ir.Value) -> ir.Value:
    """Heads ``[batch, tokens, heads, size]`` as ``[batch, tokens, width]``, with nothing moved."""
    split = producer(heads, "Reshape")
    if split and len(split.inputs[0].shape or ()) == 3:
        return split.inputs[0]
    width = math.prod(heads.shape[2:])
    node = ir.node("Reshape", [heads, constant(graph, [0, 0, width])])
    flat = node.outputs[0]
    flat.shape, flat.type = ir.Shape([*heads.shape[:2], width]), heads.type
    graph.insert_after(heads.producer(), node)
    return flat


def _moved_back(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """The value that has the heads behind the tokens again, joined to ``[…, width]`` if it is next.

    Returns:
        It, and the shape that ``[batch, tokens, width]`` has to be given to be it, if another.
    """
    move = only_reader(value, "Transpose")
    if not move or permutation(move) != SWAP:
        return None, None
    moved, sizes = move.outputs[0], list(move.outputs[0].shape[2:])
    if not all(isinstance(size, int) for size in sizes):
        return None, None
    join = only_reader(moved, "Reshape")
    joined = join and join.outputs[0]
    if joined and joined.shape is not None and joined.shape[-1] == math.prod(sizes):
        return joined, None if len(joined.shape) == 3 else join.inputs[1]
    return moved, constant(graph, [0, 0, *sizes])


def _with_rows(graph: ir.Graph, place: ir.Node, bias: ir.Value) -> ir.Value:
    """The bias with a row for each query: ONNX Runtime does not broadcast that axis."""
    if bias.shape[2] != 1:
        return bias
    for reader, _ in bias.uses():
        if reader.op_type == "Expand":
            return reader.outputs[0]
    one, chain = constant(graph, [1]), Chain(graph)
    tokens = chain.add("Shape", [bias], {"start": 3, "end": 4})
    rows = chain.add("Expand", [bias, chain.add("Concat", [one, one, tokens, one], {"axis": 0})])
    rows.shape = ir.Shape([*bias.shape[:2], bias.shape[3], bias.shape[3]])
    rows.type = bias.type
    graph.insert_before(place, chain.nodes)
    return rows
