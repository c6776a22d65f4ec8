"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) as one operator.

transformers writes ``x * cos + rotate_half(x) * sin`` over ``[batch, heads, tokens, size]`` or
``[rows, heads, size]``. The operator takes ``[batch, tokens, width]`` and half of each table.
"""

from __future__ import annotations

import onnx_ir as ir

from colport.tensors.editing import constant, permutation, producer, replace, scalar

_SWAP = [0, 2, 1, 3]
_ELEMENTWISE = ("Cos", "Sin", "Cast")


def write_rotary_embedding(graph: ir.Graph) -> None:
    """Write every rotation of moved heads as ``RotaryEmbedding``, in place."""
    halves: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Add" and node.graph is graph:
            _rotation(graph, node, halves)


def _rotation(graph: ir.Graph, total: ir.Node, halves: dict[ir.Value, ir.Value]) -> None:
    parts = [producer(value, "Mul") for value in total.inputs]
    if None in parts:
        return
    turned = [_turned(part) for part in parts]
    if (turned[0] is None) == (turned[1] is None):
        return
    straight, (heads, sine) = (parts[1], turned[0]) if turned[0] else (parts[0], turned[1])
    if heads not in straight.inputs:
        return
    (cosine,) = [value for value in straight.inputs if value is not heads] or [heads]
    write = _over_moved_heads if len(heads.shape) == 4 else _over_rows
    if nodes := write(graph, heads, cosine, sine, total, halves):
        replace(graph, total.outputs[0], nodes)


def _over_moved_heads(
    graph: ir.Graph,
    heads: ir.Value,
    cosine: ir.Value,
    sine: ir.Value,
    place: ir.Node,
    halves: dict[ir.Value, ir.Value],
) -> list[ir.Node] | None:
    """``[batch, heads, tokens, size]``: rotate before the heads are moved forward."""
    move = producer(heads, "Transpose")
    split = move and producer(move.inputs[0], "Reshape")
    if not split or permutation(move) != _SWAP or len(split.inputs[0].shape or ()) != 3:
        return None
    tables = [_half(graph, table, heads, place, halves) for table in (cosine, sine)]
    if None in tables:
        return None
    rotated = _rotated(split.inputs[0], tables, int(heads.shape[1]))
    again = ir.node("Reshape", [rotated.outputs[0], split.inputs[1]])
    again.outputs[0].shape, again.outputs[0].type = split.outputs[0].shape, heads.type
    return [rotated, again, ir.node("Transpose", [again.outputs[0]], {"perm": _SWAP})]


def _over_rows(
    graph: ir.Graph,
    heads: ir.Value,
    cosine: ir.Value,
    sine: ir.Value,
    place: ir.Node,
    halves: dict[ir.Value, ir.Value],
) -> list[ir.Node] | None:
    """``[rows, heads, size]``, as a vision tower's patches: one row of a batch."""
    tables = [_half(graph, table, heads, place, halves) for table in (cosine, sine)]
    if None in tables or len(heads.shape) != 3:
        return None
    count, size = int(heads.shape[1]), int(heads.shape[2])
    flat = ir.node("Reshape", [heads, constant(graph, [1, -1, count * size])])
    flat.outputs[0].shape = ir.Shape([1, heads.shape[0], count * size])
    flat.outputs[0].type = heads.type
    rotated = _rotated(flat.outputs[0], tables, count)
    apart = constant(graph, [-1, count, size])
    return [flat, rotated, ir.node("Reshape", [rotated.outputs[0], apart])]


def _rotated(flat: ir.Value, tables: list[ir.Value], heads: int) -> ir.Node:
    node = ir.node("RotaryEmbedding", [flat, *tables], {"num_heads": heads})
    node.outputs[0].shape, node.outputs[0].type = flat.shape, tables[0].type
    return node


def _turned(product: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Of ``rotate_half(x) * table``: x and the table."""
    for value, table in (product.inputs, reversed(product.inputs)):
        joined = producer(value, "Concat")
        if joined is None or len(joined.inputs) != 2:
            continue
        negated, first = producer(joined.inputs[0], "Neg"), joined.inputs[1]
        second = negated and negated.inputs[0]
        origin = _half_of(first, 0)
        if second is not None and origin is not None and _half_of(second, 1) is origin:
            return origin, table
    return None


def _half_of(value: ir.Value, which: int) -> ir.Value | None:
    """What ``value`` is the first (0) or second (1) half of, along the last axis."""
    node = producer(value, "Split", "Slice")
    if node is None or node.inputs[0].shape is None:
        return None
    whole, rank = node.inputs[0], len(node.inputs[0].shape)
    size = whole.shape[-1]
    if value.shape is None or not isinstance(size, int) or value.shape[-1] * 2 != size:
        return None
    if node.op_type == "Split":
        last = node.attributes.get_int("axis", 0) in (-1, rank - 1)
        return whole if last and node.outputs[which] is value else None
    last = scalar(node.inputs[3]) in (-1, rank - 1)
    return whole if last and scalar(node.inputs[1]) == which * size // 2 else None


def _half(
    graph: ir.Graph,
    table: ir.Value,
    heads: ir.Value,
    place: ir.Node,
    halves: dict[ir.Value, ir.Value],
) -> ir.Value | None:
    """Half of a table whose halves are equal, ``[batch, tokens, size / 2]``."""
    if table in halves:
        return halves[table]
    spread = producer(table, "Unsqueeze")
    if spread is None or scalar(spread.inputs[1]) not in (1, 1 - len(heads.shape)):
        return None
    value, steps = spread.inputs[0], []
    while step := producer(value, *_ELEMENTWISE):
        steps.append(step)
        value = step.inputs[0]
    joined = producer(value, "Concat")
    if joined is None or len(joined.inputs) != 2 or joined.inputs[0] is not joined.inputs[1]:
        return None
    half = joined.inputs[0]
    extent = [heads.shape[0], *half.shape[1:]]
    nodes: list[ir.Node] = []
    for step in reversed(steps):
        nodes.append(ir.node(step.op_type, [half], step.attributes))
        half = nodes[-1].outputs[0]
    if len(heads.shape) == 3:
        extent = [1, *extent]
        nodes.append(ir.node("Unsqueeze", [half, constant(graph, [0])]))
        half = nodes[-1].outputs[0]
    elif joined.inputs[0].shape[0] != heads.shape[0]:
        # ONNX Runtime wants a table for each row of the batch.
        rows = ir.node("Shape", [_with_batch(graph, heads)], {"start": 0, "end": 1})
        one = constant(graph, [1])
        shape = ir.node("Concat", [rows.outputs[0], one, one], {"axis": 0})
        nodes += [rows, shape, ir.node("Expand", [half, shape.outputs[0]])]
        half = nodes[-1].outputs[0]
    if nodes:
        half.shape, half.type = ir.Shape(extent), table.type
        graph.insert_before(place, nodes)
    halves[table] = half
    return half


def _with_batch(graph: ir.Graph, heads: ir.Value) -> ir.Value:
    """A value whose first axis is the batch: a graph input, so that all layers share the table."""
    batch = heads.shape[0]
    return next((v for v in graph.inputs if v.shape is not None and v.shape[0] == batch), heads)
