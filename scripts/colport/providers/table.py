"""What ``table.toml`` says: ONNX Runtime's name of each provider, its package, its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from colport.base.foreign import local, table_beside

MOST_THREADS = 1024
"""Of a session; ONNX Runtime starts as many as it is told, and hangs or dies on absurd numbers."""

Kind = type | range | tuple[str, ...]
"""What a value may be: ``bool``, a whole number of a range, ``str``, or one of these texts."""

_ENDLESS = 2**43
"""A range that ends here or later says nothing of its end: in MB, more bytes than 64 bits hold."""


@dataclass(frozen=True)
class Key:
    """A key of ours that becomes options of the provider.

    Attributes:
        kind: What its value may be.
        options: ONNX Runtime's options for a value.
    """

    kind: Kind
    options: Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Provider:
    """One way to run a graph.

    Attributes:
        name: Its type in the config.
        execution_provider: ONNX Runtime's name.
        requirement: Package that brings it.
        torch_device: Where PyTorch runs to be compared with it.
        keys: Keys of ours beside those that every provider takes.
        options: ONNX Runtime's own options and their kinds.
        defaults: Options unless the config says otherwise.
        memory: Device name of its memory for I/O binding; ``cpu`` where it shares the host's.
        behind: Provider that takes the nodes it leaves, before the CPU.
        opset: Newest operator set that it reads.
        booleans: How it reads false and true.
        exact_sums: Whether integer products of the full range are exact with it on every processor:
            it has such kernels, or leaves those products to the CPU's.
        is_concurrent: Whether ONNX Runtime runs several calls of one session at a time on it.
    """

    name: str
    execution_provider: str
    requirement: str
    torch_device: str = "cpu"
    keys: Mapping[str, Key] = field(default_factory=dict)
    options: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    memory: str = "cpu"
    behind: str | None = None
    opset: int | None = None
    booleans: Sequence[str] = ("False", "True")
    exact_sums: bool = False
    is_concurrent: bool = True


_KINDS: Mapping[str, tuple[Kind, Callable[[Any], Any]]] = {
    "bool": (bool, bool),
    "int": (range(2**63), int),
    "text": (str, str),
    "path": (str, lambda path: str(local(path))),
    "megabytes": (range(1, _ENDLESS), lambda size: size * 2**20),
}
"""Words for kinds in the file to what a value may be, and what ONNX Runtime gets for it."""


def _key(written: Mapping[str, Any]) -> Key:
    """A key: options for each of its words, or those that get its value, with others beside."""
    if "kind" not in written:
        return Key(tuple(written), written.__getitem__)
    kind, converted = _KINDS[written["kind"]]
    also = written.get("also", {})
    return Key(kind, lambda value: {**also, **dict.fromkeys(written["options"], converted(value))})


def _provider(name: str, written: Mapping[str, Any]) -> Provider:
    keys = {key: _key(entry) for key, entry in written.get("keys", {}).items()}
    options = {
        option: tuple(kind) if isinstance(kind, list) else _KINDS[kind][0]
        for option, kind in written.get("options", {}).items()
    }
    return Provider(name, **{**written, "keys": keys, "options": options})


PROVIDERS: Mapping[str, Provider] = {
    name: _provider(name, written) for name, written in table_beside(__file__).items()
}
"""Every provider by its type."""


def fits(kind: Kind, value: Any) -> bool:
    """Whether a value is of a kind."""
    if isinstance(kind, tuple):
        return value in kind
    if isinstance(kind, range):
        return isinstance(value, int) and not isinstance(value, bool) and value in kind
    return isinstance(value, kind) and value != ""


def describe(kind: Kind) -> str:
    """What a kind allows, for a message."""
    if isinstance(kind, tuple):
        return f"one of {', '.join(kind)}"
    if isinstance(kind, range):
        end = f"to {kind.stop - 1}" if kind.stop < _ENDLESS else "up"
        return f"a whole number from {kind.start} {end}"
    return {bool: "true or false", str: "a text"}[kind]
