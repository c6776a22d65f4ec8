"""One entry of the config's ``providers``: checked, and as ONNX Runtime takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from colport.base.errors import ConfigError
from colport.base.foreign import local
from colport.providers.table import MOST_THREADS, PROVIDERS, Kind, Provider, describe, fits

FALLBACK = ("allowed", "forbidden")
_COMMON: Mapping[str, Kind] = {
    "threads": range(MOST_THREADS + 1),
    "inter_op_threads": range(MOST_THREADS + 1),
    "arena": bool,
    "io_binding": bool,
    "fallback": FALLBACK,
    "python": str,
}
"""Keys of every provider, beside ``type``, ``options`` and ``fixed_shapes``."""

_AXES = ("batch", "tokens")
_GRAPH_SHAPES = {"batch": (1, 2, 4, 8, 16, 32), "tokens": (32, 64, 128, 256, 512)}
"""Shapes that a captured graph is padded to where the config names none."""


@dataclass(frozen=True)
class ProviderSettings:
    """How a graph runs.

    Attributes:
        provider: The provider.
        options: ONNX Runtime's options of it, defaults included.
        threads: Threads within an operator; ``None`` leaves it to ONNX Runtime.
        inter_op_threads: Operators at the same time; above 1 ONNX Runtime runs them in parallel.
        arena: Whether memory of the host is kept between calls.
        io_binding: Whether inputs are copied to the device and outputs left there by us.
        fallback: Whether nodes that the provider does not take may run on the CPU.
        cuda_graph: Whether calls are captured and replayed.
        fixed_shapes: Axis name to the sizes that a batch is padded to; empty pads nothing.
        python: Interpreter of another environment that runs it; ``None`` is this one.
    """

    provider: Provider
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    inter_op_threads: int | None = None
    arena: bool = True
    io_binding: bool = False
    fallback: bool = True
    cuda_graph: bool = False
    fixed_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    python: str | None = None

    @classmethod
    def of(cls, entry: str | Mapping[str, Any]) -> ProviderSettings:
        """From a provider's type alone, or an entry with ``type`` and settings.

        Raises:
            ConfigError: See :meth:`from_config`; fields are named without the entry's.
        """
        entry = {"type": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping):
            found = type(entry).__name__
            raise ConfigError(f"provider: found {found}; allowed is a type or a mapping with it.")
        return cls.from_config("", entry)

    @classmethod
    def from_config(cls, name: str, entry: Mapping[str, Any]) -> ProviderSettings:
        """From ``providers.NAME``; without ``type`` the name is the type.

        Raises:
            ConfigError: The type is unknown, or it has no such key, option or value.
        """
        place = f"providers.{name}." if name else "provider: "
        provider = _provider(place, entry.get("type", name))
        common = {"type", "options", "fixed_shapes", *_COMMON}
        options = dict(provider.defaults)
        for key, value in entry.items():
            if key in _COMMON:
                _check(f"{place}{key}", _COMMON[key], value)
            elif key in provider.keys:
                _check(f"{place}{key}", provider.keys[key].kind, value)
                options |= provider.keys[key].options(value)
            elif key not in common:
                allowed = _list([*common, *provider.keys])
                raise ConfigError(f"{place}{key}: type {provider.name} takes {allowed}.")
        options |= _own_options(f"{place}options", provider, entry.get("options", {}))
        cuda_graph = bool(entry.get("cuda_graph"))
        shapes = _shapes(f"{place}fixed_shapes", entry.get("fixed_shapes"))
        io_binding = entry.get("io_binding", provider.memory != "cpu")
        if cuda_graph and not io_binding:
            raise ConfigError(f"{place}io_binding: found false; cuda_graph needs it.")
        return cls(
            provider,
            options,
            threads=entry.get("threads") or None,
            inter_op_threads=entry.get("inter_op_threads") or None,
            arena=entry.get("arena", True),
            io_binding=io_binding,
            fallback=entry.get("fallback", "allowed") == "allowed",
            cuda_graph=cuda_graph,
            fixed_shapes=_GRAPH_SHAPES if cuda_graph and shapes is None else shapes or {},
            python=None if (python := entry.get("python")) is None else str(local(python)),
        )

    def refuse_other_python(self) -> None:
        """Refuse settings that are for another environment's interpreter.

        Raises:
            ConfigError: ``python`` is set; :func:`colport.runtime.remote.open_encoder` follows it.
        """
        if self.python is not None:
            raise ConfigError(
                f"provider: python: found {self.python!r}; this process runs nothing elsewhere, "
                "colport.runtime.remote.open_encoder does."
            )

    def chain(self, threads: int | None) -> list[tuple[str, dict[str, str]]]:
        """Execution providers with their options, first choice first; the CPU is left to ORT."""
        provider, options = self.provider, dict(self.options)
        if threads and "num_of_threads" in provider.options:
            options.setdefault("num_of_threads", threads)
        chosen = [(provider.execution_provider, _texts(provider, options))]
        if provider.behind:
            behind = PROVIDERS[provider.behind]
            shared = {key: options[key] for key in ("device_id",) if key in options}
            chosen.append((behind.execution_provider, _texts(behind, behind.defaults | shared)))
        return chosen


def _provider(place: str, name: str) -> Provider:
    if name in PROVIDERS:
        return PROVIDERS[name]
    raise ConfigError(f"{place}type: {name!r} is unknown; allowed are {', '.join(PROVIDERS)}.")


def _own_options(place: str, provider: Provider, given: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in provider.options:
            allowed = _list(provider.options)
            raise ConfigError(
                f"{place}.{key}: {provider.execution_provider} has no such option; "
                f"allowed are {allowed}."
            )
        _check(f"{place}.{key}", provider.options[key], value)
    return dict(given)


def _shapes(place: str, given: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]] | None:
    if given is None:
        return None
    for axis, sizes in given.items():
        if axis not in _AXES:
            raise ConfigError(f"{place}.{axis}: unknown axis; allowed are {_list(_AXES)}.")
        whole = isinstance(sizes, list | tuple) and all(fits(int, size) for size in sizes)
        if not whole or not sizes or min(sizes) < 1:
            raise ConfigError(
                f"{place}.{axis}: found {sizes!r}; expected a list of whole numbers from 1 up."
            )
    return {axis: tuple(sorted(sizes)) for axis, sizes in given.items()}


def _check(place: str, kind: Kind, value: Any) -> None:
    if not fits(kind, value):
        found = f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"{place}: found {found}, expected {describe(kind)}.")


def _texts(provider: Provider, options: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: provider.booleans[value] if isinstance(value, bool) else str(value)
        for key, value in options.items()
    }


def _list(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "none"
