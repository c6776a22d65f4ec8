"""Stacks: layers that a model runs one after the other, and which of them are of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch

from colport.families.base import Stack

LAYER_NUMBERS = frozenset({"layer_idx", "layer_id", "layer_num"})
"""Attributes with a layer's own place, which only caches read."""

_PLAIN = (bool, int, float, str, type(None))
_UNTOLD = {*LAYER_NUMBERS, "forward"}  # an instance has a forward of its own where it is watched


def named_by_library(model: Any) -> tuple[Stack, ...]:
    """The stacks of a transformers model, by what transformers itself says of it.

    A model class names the class of the layers whose outputs are its hidden states, and its
    configuration their types. Layers of one type that are built differently, as the first of a
    ModernBERT, are of different kinds.
    """
    found = {}
    for owner, module in model.named_modules():
        layer_class = _layer_class(module)
        for place, layers in module.named_modules() if layer_class else ():
            if isinstance(layers, torch.nn.ModuleList) and all(
                isinstance(layer, layer_class) for layer in layers
            ):
                name = f"{owner}.{place}".removeprefix(".")
                types = getattr(module.config, "layer_types", None) or ["layer"] * len(layers)
                found[name] = Stack(name, by_build(types, layers))
    return tuple(found.values())


def _layer_class(module: Any) -> type | None:
    recorded = (getattr(module, "_can_record_outputs", None) or {}).get("hidden_states")
    recorded = getattr(recorded, "target_class", recorded)
    return recorded if isinstance(recorded, type) else None


def by_build(types: Sequence[str], layers: Any) -> tuple[str, ...]:
    """A kind for each way in which layers of one type are built."""
    builds: dict[str, list[Any]] = {}
    kinds = []
    for kind, layer in zip(types, layers, strict=True):
        known = builds.setdefault(kind, [])
        same = (i for i, other in enumerate(known) if difference(layer, other) is None)
        if (place := next(same, None)) is None:
            place = len(known)
            known.append(layer)
        kinds.append(f"{kind} {place + 1}" if place else kind)
    return tuple(kinds)


def difference(layer: torch.nn.Module, other: torch.nn.Module) -> str | None:
    """What tells two layers apart, beside their weights' values; ``None`` if nothing does."""
    found, expected = (dict(_description(module)) for module in (layer, other))
    for name in (*found, *expected):
        if not is_same(found.get(name), expected.get(name)) or name not in found.keys() & expected:
            return name
    return None


def _description(layer: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """All that makes up a layer but its weights' values, by name."""
    internal = vars(torch.nn.Module()).keys() | _UNTOLD
    for path, module in layer.named_modules():
        place = f"{path}." if path else ""
        yield f"{place}class", type(module)
        for key, value in vars(module).items():
            if key not in internal:
                yield f"{place}{key}", value
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        yield f"{name} (its shape)", tuple(tensor.shape)
        yield f"{name} (its dtype)", tensor.dtype


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are one and the same: plain ones by value, any other by identity."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, partial):
        parts = ((call.func, call.args, call.keywords) for call in (one, other))
        return is_same(*parts)
    if isinstance(one, MethodType):  # of a module, whose place is the same
        return one.__func__ is other.__func__
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return isinstance(one, _PLAIN) and bool(one == other)
