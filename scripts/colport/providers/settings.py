"""One entry of the config's ``providers``: checked, and as ONNX Runtime takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Annotated, Any, get_args, get_type_hints

from colport.base.declared import Allowed, Sizes
from colport.base.errors import ConfigError, chosen
from colport.base.foreign import local
from colport.providers.table import MOST_THREADS, PROVIDERS, Kind, Provider, describe, fits

_GRAPH_SHAPES = {"batch": (1, 2, 4, 8, 16, 32), "tokens": (32, 64, 128, 256, 512)}
"""Shapes that a captured graph is padded to where the config names none."""

Threads = Annotated[int | None, Allowed(minimum=1, maximum=MOST_THREADS)]


@dataclass(frozen=True)
class FixedShapes:
    """Sizes to which a call is padded."""

    batch: Sizes | None = None
    """Numbers of inputs."""

    tokens: Sizes | None = None
    """Numbers of tokens of an input."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Keys of every provider, beside ``type``, ``options`` and ``fixed_shapes``."""

    threads: Threads = None
    """Threads within an operator; the number of the job's threads has priority."""

    inter_op_threads: Threads = None
    """Operators that run at the same time; above 1 ONNX Runtime runs them in parallel."""

    arena: bool = True
    """``false`` gives memory of the host back after each call."""

    io_binding: bool | None = None
    """Inputs are copied to the device by us and outputs left there until they are read. By default
    where the device has a memory of its own."""

    fallback: Annotated[str, Allowed(enum=("allowed", "forbidden"))] = "allowed"
    """``forbidden``: a graph with nodes that only the CPU takes is refused. Otherwise they run
    there, ``providers.csv`` and the latency rows say how much."""

    python: Annotated[str | None, Allowed(minLength=1, title="path")] = None
    """Interpreter of another environment that runs this provider, because an environment has one
    ONNX Runtime only. Its rows are in the same tables, from the same run."""


def _kind(declared: Any) -> Kind:
    """What a value may be, by its declaration."""
    for rule in getattr(declared, "__metadata__", ()):
        if "enum" in rule.keywords:
            return rule.keywords["enum"]
        if "minimum" in rule.keywords:
            return range(rule.keywords["minimum"], rule.keywords["maximum"] + 1)
    return bool if bool in (declared, *get_args(declared)) else str


_COMMON = {name: _kind(it) for name, it in get_type_hints(Common, include_extras=True).items()}
_OTHERS = ("type", "options", "fixed_shapes")


@dataclass(frozen=True)
class ProviderSettings(Common):
    """How a graph runs.

    Attributes:
        provider: The provider.
        options: ONNX Runtime's options of it, defaults included.
        io_binding: Whether inputs are copied to the device and outputs left there by us.
        fallback: Whether nodes that the provider does not take may run on the CPU.
        cuda_graph: Whether calls are captured and replayed.
        fixed_shapes: Axis name to the sizes that a batch is padded to; empty pads nothing.
    """

    provider: Provider
    options: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    io_binding: bool = False
    fallback: bool = True
    cuda_graph: bool = False
    fixed_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
        provider = chosen(f"{place}type", entry.get("type", name), PROVIDERS)
        options, given = dict(provider.defaults), {}
        for key, value in entry.items():
            if key in _COMMON:
                _check(f"{place}{key}", _COMMON[key], value)
                given[key] = value
            elif key in provider.keys:
                _check(f"{place}{key}", provider.keys[key].kind, value)
                options |= provider.keys[key].options(value)
            elif key not in _OTHERS:
                allowed = _list([*_OTHERS, *_COMMON, *provider.keys])
                raise ConfigError(f"{place}{key}: type {provider.name} takes {allowed}.")
        options |= _own_options(f"{place}options", provider, entry.get("options", {}))
        cuda_graph = bool(entry.get("cuda_graph"))
        shapes = _shapes(f"{place}fixed_shapes", entry.get("fixed_shapes"))
        if cuda_graph and shapes is None:
            shapes = _GRAPH_SHAPES
        given = {"io_binding": provider.memory != "cpu", **given}
        if cuda_graph and not given["io_binding"]:
            raise ConfigError(f"{place}io_binding: found false; cuda_graph needs it.")
        given["fallback"] = given.get("fallback") != "forbidden"
        if "python" in given:
            given["python"] = str(local(given["python"]))
        return cls(provider, options, cuda_graph=cuda_graph, fixed_shapes=shapes or {}, **given)

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
    axes = [axis.name for axis in fields(FixedShapes)]
    for axis, sizes in given.items():
        if axis not in axes:
            raise ConfigError(f"{place}.{axis}: unknown axis; allowed are {_list(axes)}.")
        whole = isinstance(sizes, list | tuple) and all(fits(range(1, 2**63), n) for n in sizes)
        if not whole or not sizes:
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
