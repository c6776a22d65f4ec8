"""Trace one layer of each kind and repeat it: tracing then costs the same at any depth.

A family names the stacks of a model and the kind of each of their layers. The first layer of a kind
is traced between two markers, each further one is a marker alone, in its place among all that the
model does around its layers. Once the graph is cleaned up, what lies between the two is copied to
every further one.

Nothing is taken on trust: a layer that is not built or not called as the first of its kind ends
the export.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import Any, NoReturn

import onnx_ir as ir
import torch

from colport.base.errors import ExportError
from colport.families import attention
from colport.families.base import Stack
from colport.families.stacks import LAYER_NUMBERS, difference, is_same
from colport.tensors.editing import declared

LAYER_BOUNDARY = "LayerBoundary"
"""Hidden states where a layer of ``stack`` begins or ends, or in its place: attributes ``side`` and
``layer``, its number."""

_INPUT, _OUTPUT, _FURTHER = "input", "output", "further"
_RAN = "colport.stacks"  # a graph's stacks by name, those of which it has layers


@contextmanager
def one_of_each_kind(model: torch.nn.Module, stacks: Sequence[Stack]) -> Iterator[None]:
    """Trace one layer of each kind, as long as the block lasts.

    Raises:
        ExportError: A stack is not what its family says.
    """
    with ExitStack() as undo:
        watched = [_Watched(model, stack, undo) for stack in stacks]
        yield
        for item in watched:
            item.check_calls()


def _change(undo: ExitStack, module: torch.nn.Module, key: str, value: Any) -> None:
    values = vars(module)
    if key in values:
        undo.callback(values.__setitem__, key, values[key])
    else:
        undo.callback(values.pop, key)
    values[key] = value


class _Watched:
    """The layers of one stack while a graph is traced.

    Args:
        model: The model that they are in.
        stack: What its family says of them.
        undo: Leaves the layers as they were.
    """

    def __init__(self, model: torch.nn.Module, stack: Stack, undo: ExitStack) -> None:
        self._stack = stack
        layers = dict(model.named_modules(remove_duplicate=False)).get(stack.name)
        if not isinstance(layers, torch.nn.ModuleList) or len(layers) != len(stack.kinds):
            self._refuse(f"is no list of {len(stack.kinds)} layers")
        count = Counter(stack.kinds)
        self._layers = {i: layer for i, layer in enumerate(layers) if count[stack.kinds[i]] > 1}
        # What the first layer of a kind was given beside hidden states, and how it gives them.
        self._firsts: dict[int, tuple[Mapping[str, Any], Callable[[torch.Tensor], Any]]] = {}
        self._calls: Counter[int] = Counter()
        for number, layer in self._layers.items():
            first = stack.first(number)
            if told := difference(layer, self._layers[first]):
                self._refuse_pair(number, told)
            # In `forward`, which runs however a layer is called.
            _change(undo, layer, "forward", partial(self._run, number, layer.forward))
            for module in layer.modules() if number != first else ():
                for key in ("_parameters", "_buffers"):  # tracing would carry them all along
                    _change(undo, module, key, {})

    def check_calls(self) -> None:
        """Refuse a stack of which some layers ran, and others did not."""
        missed = [number for number in self._layers if not self._calls[number]]
        if missed and self._calls.total():
            self._refuse(f"layer {missed[0]} is left out where others run")

    def _run(self, number: int, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        self._calls[number] += 1
        if self._calls[number] > 1:
            self._refuse(f"layer {number} runs more than once")
        names = [*signature(forward).parameters, *(f"input {i}" for i in range(len(inputs)))]
        arguments = {**dict(zip(names, inputs, strict=False)), **named}
        hidden = arguments.pop(names[0], None)
        if not isinstance(hidden, torch.Tensor):
            self._refuse(f"layer {number} is not given hidden states")
        if (first := self._stack.first(number)) != number:
            self._check_called_alike(number, arguments)
            return self._firsts[first][1](self._mark(hidden, _FURTHER, number))
        marked = self._mark(hidden, _INPUT, number)
        inputs, named = (
            ((marked, *inputs[1:]), named) if inputs else ((), {**named, names[0]: marked})
        )
        with ExitStack() as undo:  # a further layer has another number, so none may compute with it
            for module in self._layers[number].modules():
                for key in LAYER_NUMBERS & vars(module).keys():
                    refuse = partial(self._refuse, f"a layer computes with {key}, its own number")
                    _change(undo, module, key, _Number(number, refuse))
            result = forward(*inputs, **named)
        states, output = self._taken_apart(number, result, arguments)
        if (states.dtype, *map(str, states.shape)) != (hidden.dtype, *map(str, hidden.shape)):
            self._refuse(f"layer {number} changes the shape or type of hidden states")
        self._firsts[number] = arguments, output
        return output(self._mark(states, _OUTPUT, number))

    def _mark(self, hidden: torch.Tensor, side: str, number: int) -> torch.Tensor:
        place = {"side": side, "stack": self._stack.name, "layer": number}
        return attention.node(LAYER_BOUNDARY, hidden, **place)

    def _taken_apart(
        self, number: int, result: Any, arguments: Mapping[str, Any]
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
        """The hidden states of a result, and how a further layer puts its own into one."""
        if isinstance(result, torch.Tensor):
            return result, lambda states: states
        if type(result) not in (tuple, list) or not isinstance(result[0], torch.Tensor):
            self._refuse(f"layer {number} gives {type(result).__name__} in place of hidden states")
        rest = result[1:]
        for value in rest:  # what this layer was given, a further one is given as well
            if value is not None and not any(value is given for given in arguments.values()):
                self._refuse(f"layer {number} gives more than hidden states")
        return result[0], lambda states: type(result)([states, *rest])

    def _check_called_alike(self, number: int, arguments: Mapping[str, Any]) -> None:
        if (first := self._stack.first(number)) not in self._firsts:
            self._refuse(f"layer {number} runs before the first of its kind")
        known, _ = self._firsts[first]
        for name in (*arguments, *known):
            if not is_same(arguments.get(name), known.get(name)):
                self._refuse_pair(number, name)

    def _refuse_pair(self, number: int, told: str) -> NoReturn:
        first, kind = self._stack.first(number), self._stack.kinds[number]
        self._refuse(f"layers {first} and {number}, both {kind!r}, differ in {told}")

    def _refuse(self, reason: str) -> NoReturn:
        raise ExportError(f"{self._stack.name}: {reason}; the layers cannot be repeated.")


class _Number:
    """Stands for a number that may be passed on and nothing else.

    ``layer`` is for a cache, whose states of a layer are the layer's own inputs and outputs.
    """

    def __init__(self, layer: int, refuse: Callable[[], NoReturn]) -> None:
        self.layer = layer
        self._refuse = refuse

    def _read(self, *_: Any) -> NoReturn:
        self._refuse()

    __hash__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _read  # type: ignore[assignment]
    __bool__ = __int__ = __float__ = __index__ = __str__ = _read  # type: ignore[assignment]
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _read
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _read
    __pow__ = __rpow__ = _read


def repeat_layers(model: ir.Model, stacks: Sequence[Stack]) -> None:
    """Put the first layer of its kind in place of every further one.

    Inputs and outputs of a layer's own (``Stack.own``) become those of the further one.

    Raises:
        ExportError: A first layer is not in the graph, a value inside is read outside of it, or an
            input or output of its own is not the layer's.
    """
    model.meta[_RAN] = {stack.name for stack in stacks if _repeat(model.graph, stack)}


def check_stacks(models: Iterable[ir.Model], stacks: Sequence[Stack]) -> None:
    """Refuse a stack whose markers are in none of the graphs that :func:`repeat_layers` completed.

    Raises:
        ExportError: There is one.
    """
    ran = {name for model in models for name in model.meta[_RAN]}
    for stack in stacks:
        if stack.name not in ran and len(set(stack.kinds)) < len(stack.kinds):
            raise ExportError(
                f"{stack.name}: none of its {len(stack.kinds)} layers runs in any graph, although "
                "the family names them."
            )


def _repeat(graph: ir.Graph, stack: Stack) -> bool:
    markers: dict[tuple[str, int], ir.Node] = {}
    for node in graph:
        if node.op_type == LAYER_BOUNDARY and node.attributes.get_string("stack") == stack.name:
            place = node.attributes.get_string("side"), node.attributes.get_int("layer")
            markers[place] = node
    firsts = {}
    for number in {stack.first(number) for _, number in markers}:
        ends = [markers.get((side, number)) for side in (_INPUT, _OUTPUT)]
        if None in ends:
            raise ExportError(
                f"{stack.name}: layer {number} is not in the graph; it cannot be repeated."
            )
        firsts[number] = _between(graph, stack, number, *ends), *ends
    for (side, number), marker in markers.items():
        if side == _FURTHER:
            _put(graph, marker, stack, number, *firsts[stack.first(number)])
    for marker in markers.values():
        states = marker.inputs[0]
        ir.convenience.replace_all_uses_with(marker.outputs[0], states, replace_graph_outputs=True)
        graph.remove(marker, safe=True)
    return bool(markers)


def _put(
    graph: ir.Graph,
    marker: ir.Node,
    stack: Stack,
    number: int,
    layer: list[ir.Node],
    begin: ir.Node,
    end: ir.Node,
) -> None:
    """Copy a layer before the marker of a further one, which then marks the copy's output."""
    first, own = f"{stack.name}.{stack.first(number)}.", f"{stack.name}.{number}."
    known = {None: None, begin.outputs[0]: marker.inputs[0]}
    states = dict(zip(*(_own(stack, n) for n in (stack.first(number), number)), strict=True))
    read = {value for node in layer for value in node.inputs}
    for value in [value for value in graph.inputs if value.name in states and value in read]:
        known[value] = ir.Value(name=states[value.name], shape=value.shape, type=value.type)
        graph.inputs.append(known[value])
    for node in layer:
        for value in node.inputs:
            if value not in known and value.is_initializer() and value.name.startswith(first):
                name = own + value.name.removeprefix(first)
                known[value] = declared(graph, name, value.shape, value.dtype)
                known[value].meta.update(value.meta)
        copy = ir.Node(
            node.domain,
            node.op_type,
            [known.get(value, value) for value in node.inputs],  # masks and the like are shared
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=f"{own}{node.name}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type = f"{own}{old.name}", old.type
            new.shape = None if old.shape is None else old.shape.copy()
            known[old] = new
        graph.insert_before(marker, copy)
    marker.replace_input_with(0, known[end.inputs[0]])
    for value in [value for value in (*graph.inputs, *graph.outputs) if value.name in states]:
        if value not in known:
            raise ExportError(f"{stack.name}: {value.name} is not a layer's own.")
        if value.producer():
            known[value].name = states[value.name]
            graph.outputs.append(known[value])


def _own(stack: Stack, number: int) -> list[str]:
    return [name.format(number) for name in stack.own]


def _between(
    graph: ir.Graph, stack: Stack, number: int, first: ir.Node, last: ir.Node
) -> list[ir.Node]:
    """Nodes on the way from a layer's inputs or weights to its outputs, in graph order.

    How long its states are is not the layer's own: it is the same in all layers.
    """
    prefix, own = f"{stack.name}.{number}.", _own(stack, number)
    states = {value for value in graph.inputs if value.name in own}
    needed = {last, *(value.producer() for value in graph.outputs if value.name in own)}
    for node in reversed(graph):  # graph order: inputs come before what reads them
        if not needed.isdisjoint(node.successors()):
            needed.add(node)
    needed -= {first, last}
    reached = {first.outputs[0], *states}
    reached |= {value for name, value in graph.initializers.items() if name.startswith(prefix)}
    layer = []
    for node in graph:
        if node in needed and not _is_size(node, states) and not reached.isdisjoint(node.inputs):
            layer.append(node)
            reached.update(node.outputs)
    _check_closed(layer, stack, (first, last), states)
    return layer


def _check_closed(layer: list[ir.Node], stack: Stack, ends: Sequence[ir.Node], states: Any) -> None:
    first, last = ends
    made = [value for node in (first, *layer) for value in node.outputs]
    for value in (*made, *states):
        readers = {reader for reader, _ in value.uses() if not _is_size(reader, states)}
        if readers - {*layer, last}:
            source = value.producer()
            raise ExportError(
                f"{stack.name}: {value.name!r} ({source.op_type if source else 'input'}) of a "
                "layer is read outside of it; the layers cannot be repeated."
            )


def _is_size(node: ir.Node, states: Any) -> bool:
    return node.op_type == "Shape" and node.inputs[0] in states
