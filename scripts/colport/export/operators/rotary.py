"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) as one operator.

transformers writes ``x * cos + rotate_half(x) * sin`` over ``[batch, heads, tokens, size]`` or
``[rows, heads, size]``. The operator takes ``[batch, tokens, width]`` and half of each table.
"""

from __future__ import annotations

import onnx_ir as ir

from colport.export.operators.attention import SWAP, before_move, flattened
from colport.tensors.editing import Chain, constant, producer, replace, scalar

_ELEMENTWISE = ("Cos", "Sin", "Cast")


def write_rotary_embedding(graph: ir.Graph) -> None:
    """Write every rotation as ``RotaryEmbedding``, in place.

    Heads that were moved are rotated before; a vision tower's patches as one row of a batch.
    """
    known: dict[ir.Value, ir.Value] = {}  # halves of tables
    for node in list(graph):
        if node.op_type != "Add" or node.graph is not graph or (found := _rotation(node)) is None:
            continue
        heads, *tables = found
        unmoved = before_move(heads)
        if len(heads.shape) != 3 and (len(heads.shape) != 4 or unmoved is None):
            continue
        halves = [known.get(table) or _half(graph, table, heads, node) for table in tables]
        if None in halves:
            continue
        known |= zip(tables, halves, strict=True)
        replace(graph, node.outputs[0], _rotated(graph, heads, halves, unmoved))


def _rotation(total: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Heads and their tables of cosine and sine, of a sum that is a rotation."""
    parts = [producer(value, "Mul") for value in total.inputs]
    if None in parts:
        return None
    turned = [_turned(part) for part in parts]
    if (turned[0] is None) == (turned[1] is None):
        return None
    straight, (heads, sine) = (parts[1], turned[0]) if turned[0] else (parts[0], turned[1])
    if heads not in straight.inputs:
        return None
    (cosine,) = [value for value in straight.inputs if value is not heads] or [heads]
    return heads, cosine, sine


def _rotated(
    graph: ir.Graph, heads: ir.Value, halves: list[ir.Value], unmoved: ir.Value | None
) -> list[ir.Node]:
    chain = Chain(graph)
    count, size = int(heads.shape[1]), int(heads.shape[-1])
    if moved := len(heads.shape) == 4:
        flat = flattened(graph, unmoved)
    else:
        flat = chain.add("Reshape", [heads, constant(graph, [1, -1, count * size])])
        flat.shape, flat.type = ir.Shape([1, heads.shape[0], count * size]), heads.type
    rotated = chain.add("RotaryEmbedding", [flat, *halves], {"num_heads": count})
    rotated.shape, rotated.type = flat.shape, halves[0].type
    if moved:
        again = chain.add("Reshape", [rotated, constant(graph, [0, 0, count, size])])
        again.shape, again.type = unmoved.shape, heads.type
        chain.add("Transpose", [again], {"perm": SWAP})
    else:
        chain.add("Reshape", [rotated, constant(graph, [-1, count, size])])
    return chain.nodes


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


def _half(graph: ir.Graph, table: ir.Value, heads: ir.Value, place: ir.Node) -> ir.Value | None:
    """Half of a table whose halves are equal, ``[batch, tokens, size / 2]``."""
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
    half, chain = joined.inputs[0], Chain(graph)
    extent = [heads.shape[0], *half.shape[1:]]
    for step in reversed(steps):
        half = chain.add(step.op_type, [half], step.attributes)
    if len(heads.shape) == 3:
        extent = [1, *extent]
        half = chain.add("Unsqueeze", [half, constant(graph, [0])])
    elif joined.inputs[0].shape[0] != heads.shape[0]:
        # ONNX Runtime wants a table for each row of the batch.
        rows = chain.add("Shape", [_with_batch(graph, heads)], {"start": 0, "end": 1})
        one = constant(graph, [1])
        half = chain.add("Expand", [half, chain.add("Concat", [rows, one, one], {"axis": 0})])
    if chain.nodes:
        half.shape, half.type = ir.Shape(extent), table.type
        graph.insert_before(place, chain.nodes)
    return half


def _with_batch(graph: ir.Graph, heads: ir.Value) -> ir.Value:
    """A value whose first axis is the batch: a graph input, so that all layers share the table."""
    batch = heads.shape[0]
    return next((v for v in graph.inputs if v.shape is not None and v.shape[0] == batch), heads)
