"""Trace one layer of a stack and repeat it: tracing then costs the same at any depth.

A transformer's layers differ in their weights alone. The first one is traced between two markers;
once the graph is cleaned up, what lies between them is copied for every other layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from colport.errors import ExportError
from colport.export.markers import LAYER_BOUNDARY, layer_boundary

_INPUT, _OUTPUT = "input", "output"
_NUMBERS = {"layer_idx", "layer_id"}  # a layer's own place, which only caches read
_SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Stack:
    """Equal layers, one after the other: ``name`` is the module list that holds them."""

    name: str
    layers: int


@contextmanager
def single_layers(model: torch.nn.Module) -> Iterator[list[Stack]]:
    """Leave only the first layer in every stack of equal layers, between markers.

    Stacks whose layers differ in more than their weights stay whole.
    """
    stacks = []
    with ExitStack() as restore:
        for name, layers in list(model.named_modules()):
            if not isinstance(layers, torch.nn.ModuleList) or not _are_equal(layers):
                continue
            stacks.append(Stack(name, len(layers)))
            restore.enter_context(_only_first(model, name, layers))
        yield stacks


def repeat_layers(model: ir.Model, stacks: list[Stack]) -> None:
    """Put every stack back to its depth, in place.

    Raises:
        ExportError: A value inside a layer is read outside of it.
    """
    for stack in stacks:
        markers = {
            node.attributes.get_string("side"): node
            for node in model.graph
            if node.op_type == LAYER_BOUNDARY and node.attributes.get_string("stack") == stack.name
        }
        if markers:
            _repeat(model.graph, stack, markers[_INPUT], markers[_OUTPUT])


def _are_equal(layers: torch.nn.ModuleList) -> bool:
    first, *others = (_description(layer) for layer in layers)
    return bool(others) and all(other == first for other in others)


def _description(layer: torch.nn.Module) -> list[Any]:
    """All that tells one layer from another but its weights' values."""
    parts: list[Any] = []
    for path, module in layer.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, _SCALARS) and key not in _NUMBERS
        }
        parts.append((path, type(module), settings))
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return [*parts, *((name, tensor.shape, tensor.dtype) for name, tensor in tensors)]


@contextmanager
def _only_first(model: torch.nn.Module, name: str, layers: torch.nn.ModuleList) -> Iterator[None]:
    parent, _, attribute = name.rpartition(".")
    owner = model.get_submodule(parent)
    first = layers[0]
    hooks = (
        first.register_forward_pre_hook(lambda _, inputs: _mark_first(_INPUT, name, inputs)),
        first.register_forward_hook(lambda _, inputs, output: _mark_first(_OUTPUT, name, output)),
    )
    setattr(owner, attribute, torch.nn.ModuleList([first]))
    try:
        yield
    finally:
        setattr(owner, attribute, layers)
        for hook in hooks:
            hook.remove()


def _mark_first(side: str, stack: str, states: Any) -> Any:
    """Mark the hidden states: a layer's first input, and its output or the first of them."""
    if isinstance(states, tuple):
        return (layer_boundary(states[0], side, stack), *states[1:])
    return layer_boundary(states, side, stack)


def _repeat(graph: ir.Graph, stack: Stack, first: ir.Node, last: ir.Node) -> None:
    prefix = f"{stack.name}.0."
    layer = _between(graph, prefix, first, last)
    _check_closed(layer, stack, last)
    begin, end = first.outputs[0], last.inputs[0]
    hidden = end
    for number in range(1, stack.layers):
        known = {begin: hidden}
        copies = [_copy(graph, node, known, prefix, f"{stack.name}.{number}.") for node in layer]
        graph.insert_before(last, copies)
        hidden = known[end]
    ir.convenience.replace_all_uses_with(begin, first.inputs[0])
    ir.convenience.replace_all_uses_with(last.outputs[0], hidden, replace_graph_outputs=True)
    graph.remove([first, last], safe=True)


def _between(graph: ir.Graph, prefix: str, first: ir.Node, last: ir.Node) -> list[ir.Node]:
    """Nodes on the way from a layer's input or weights to its output, in graph order."""
    needed = _ancestors(last)
    reached = {first.outputs[0]}
    reached |= {value for name, value in graph.initializers.items() if name.startswith(prefix)}
    layer = []
    for node in graph:  # graph order: inputs come before what reads them
        if node in needed and any(value in reached for value in node.inputs):
            layer.append(node)
            reached.update(node.outputs)
    return layer


def _ancestors(node: ir.Node) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in found:
                found.add(producer)
                waiting.append(producer)
    return found


def _check_closed(layer: list[ir.Node], stack: Stack, last: ir.Node) -> None:
    inside = {*layer, last}
    for node in layer:
        for value in node.outputs:
            if any(reader not in inside for reader, _ in value.uses()):
                raise ExportError(
                    f"{stack.name}: {value.name!r} ({node.op_type}) of a layer is read outside of "
                    "it; the layers cannot be repeated."
                )


def _copy(
    graph: ir.Graph,
    node: ir.Node,
    known: dict[ir.Value, ir.Value],
    prefix: str,
    replacement: str,
) -> ir.Node:
    """The node over another layer's values and weights; ``known`` learns its outputs."""
    inputs = [_counterpart(graph, value, known, prefix, replacement) for value in node.inputs]
    outputs = [
        ir.Value(
            name=f"{replacement}{value.name}",
            shape=value.shape.copy() if value.shape is not None else None,
            type=value.type,
        )
        for value in node.outputs
    ]
    known.update(zip(node.outputs, outputs, strict=True))
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        overload=node.overload,
        outputs=outputs,
        version=node.version,
        name=f"{replacement}{node.name}",
    )


def _counterpart(
    graph: ir.Graph,
    value: ir.Value | None,
    known: Mapping[ir.Value, ir.Value],
    prefix: str,
    replacement: str,
) -> ir.Value | None:
    if value is None or value in known:
        return None if value is None else known[value]
    if not (value.is_initializer() and value.name.startswith(prefix)):
        return value  # shared by the layers: masks, positions, constants
    name = replacement + value.name.removeprefix(prefix)
    if name not in graph.initializers:
        graph.initializers.add(ir.Value(name=name, shape=value.shape, type=value.type))
        graph.initializers[name].meta.update(value.meta)
    return graph.initializers[name]
