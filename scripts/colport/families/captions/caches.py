"""The cache of a decoder that is traced: its states are inputs and outputs of the graph.

transformers' own classes, filled with tensors; layers find their states by number, also one that is
traced for others and does not know it (:class:`colport.export.layers._Number`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

Pairs = Mapping[int, Sequence[torch.Tensor]]
"""Keys and values ``[batch, heads, tokens, size]`` of layers by number."""


class _Layers(list[Any]):
    """The layers of a cache that are in the graph."""

    def __init__(self, pairs: Pairs) -> None:
        self._numbers = list(pairs)
        for keys, values in pairs.values():
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            self.append(layer)

    def __getitem__(self, number: Any) -> Any:
        return super().__getitem__(self._numbers.index(getattr(number, "layer", number)))


class _Always(dict[Any, bool]):
    """Every layer has its keys and values of the encoder's states."""

    def get(self, number: Any, default: Any = None) -> bool:
        return True


class _WithCross(EncoderDecoderCache):
    def __init__(self, past: Cache, cross: Cache) -> None:
        self.self_attention_cache, self.cross_attention_cache = past, cross
        self.is_updated = _Always()


def opened(past: Pairs, cross: Pairs | None) -> Cache:
    """A cache of these states; with ``cross``, of an encoder's states as well."""
    own = Cache(layers=_Layers(past))
    return own if cross is None else _WithCross(own, Cache(layers=_Layers(cross)))


def states(cache: Cache) -> list[torch.Tensor]:
    """Keys and values of each layer after a pass, one after the other."""
    own = getattr(cache, "self_attention_cache", cache)
    return [part for layer in own.layers for part in (layer.keys, layer.values)]
