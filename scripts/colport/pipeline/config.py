"""The configuration: its schema, its defaults and what the schema cannot say.

Every mistake is one :class:`ConfigError` that names the field, what was found and what is
allowed, before the first job starts.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from colport.base.errors import ConfigError, read_of

_INTEGER = ("int8", "int4")
_NEAR_NAMES = 5
_MOST_VALUES = 100_000
_DEEPEST = 50


def load(file: Path | str) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        ConfigError: The file is missing, is not YAML, holds no mapping, or one without an end.
    """
    damaged = (yaml.YAMLError, ValueError, RecursionError)
    with read_of(ConfigError, file, "is not valid YAML ({})", damaged):
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds {_kind(content)}, expected a mapping.")
    _check_values(content)
    return content


def validated(config: Mapping[str, Any], schema_file: Path | str) -> dict[str, Any]:
    """The configuration with defaults filled in.

    Raises:
        ConfigError: A key is unknown, a value is of the wrong type or out of range, or two
            entries contradict each other.
    """
    import jsonschema  # here: an installation that only encodes has none

    schema = load(schema_file)
    _check_values(config)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    if error := jsonschema.exceptions.best_match(errors, key=_relevance):
        raise ConfigError(_sentence(error))
    filled = _with_defaults(dict(config), schema)
    filled["datasets"] = {name: extended(name, filled["datasets"]) for name in filled["datasets"]}
    for name, entry in filled["providers"].items():
        entry.setdefault("type", name)
    _cross_check(filled)
    return filled


def _check_values(config: Mapping[str, Any]) -> None:
    """Refuse control characters, which patterns let pass at an end, and what YAML aliases blow up.

    Raises:
        ConfigError: A name or text holds one, or values are too many or too deep.
    """
    left: list[tuple[tuple[str | int, ...], Any]] = [((), config)]
    count = 0
    while left:
        path, value = left.pop()
        count += 1
        if count > _MOST_VALUES or len(path) > _DEEPEST:
            raise ConfigError(
                f"config: has more than {_MOST_VALUES} values, or deeper than {_DEEPEST} levels."
            )
        inner = value.items() if isinstance(value, Mapping) else ()
        inner = enumerate(value) if isinstance(value, list) else inner
        for key, item in inner:
            left.append(((*path, key if isinstance(key, int) else str(key)), item))
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{_field(path)}: found {value}; allowed are numbers.")
        for text in (value, *path[-1:]):
            if isinstance(text, str) and any(ord(sign) < 32 for sign in text):
                raise ConfigError(f"{_field(path)!r}: holds a control character.")


def extended(name: str, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A dataset's entry laid over the one that it names with ``from``, and so on.

    An entry with a source of its own (``hub``, ``path``) does not inherit one.

    Raises:
        ConfigError: ``from`` names no dataset, or goes round in a circle.
    """
    seen, entry = [name], dict(datasets[name])
    while base := entry.pop("from", None):
        _known(f"datasets.{seen[-1]}.from", base, datasets)
        if base in seen:
            raise ConfigError(f"datasets.{seen[-1]}.from: {base!r} starts from this one itself.")
        seen.append(base)
        inherited = datasets[base]
        if {"hub", "path"} & entry.keys():
            source = {"hub", "revision", "size", "path"}
            inherited = {key: value for key, value in inherited.items() if key not in source}
        entry = {**inherited, **entry}
    return entry


def datasets_of(model: Mapping[str, Any]) -> dict[str, str]:
    """Field of a model's entry to the dataset that it names."""
    named = {f"datasets[{index}]": dataset for index, dataset in enumerate(model["datasets"])}
    return named | {key: model[key] for key in model if key == "calibration"}


def _relevance(error: Any) -> tuple[bool, int]:
    return error.validator not in {"additionalProperties", "propertyNames"}, -len(error.path)


def _sentence(error: Any) -> str:
    """One sentence of ours for an error of jsonschema's."""
    path, found, wanted = list(error.absolute_path), error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            path.append(min(set(found) - set(allowed)))
            fault = f"unknown key; allowed are {_list(allowed)}"
        case "required":
            path.append(next(key for key in wanted if key not in found))
            unknown = sorted(set(found) - set(error.schema.get("properties", ())))
            meant = difflib.get_close_matches(path[-1], unknown, n=1)
            fault = f"is missing; found is {meant[0]}" if meant else "is missing"
        case "type":
            is_text = wanted in {"number", "integer"} and isinstance(found, str)
            hint = " (YAML reads 1e-3 as text; write 1.0e-3)" if is_text else ""
            fault = f"found {_kind(found)}, expected {wanted}{hint}"
        case "enum":
            fault = f"found {found!r}; allowed are {_list(wanted)}"
        case "pattern":
            fault = f"found {found!r}, which does not match {wanted} ({error.schema.get('title')})"
        case _:
            fault = error.message
    return f"{_field(path)}: {fault}."


def _field(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "config"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _kind(value: Any) -> str:
    words = {type(None): "nothing", dict: "a mapping", list: "a list"}
    other = f"{value!r} ({type(value).__name__})"
    return next((word for kind, word in words.items() if isinstance(value, kind)), other)


def _with_defaults(config: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    filled = copy.deepcopy(config)
    for key, entry in schema.get("properties", {}).items():
        if key not in filled and "default" in entry:
            filled[key] = copy.deepcopy(entry["default"])
        if isinstance(filled.get(key), dict):
            filled[key] = _with_defaults(filled[key], entry)
    return filled


def _cross_check(config: Mapping[str, Any]) -> None:
    for kind in ("models", "variants", "providers", "embeddings"):
        for index, name in enumerate(config["run"][kind]):
            _known(f"run.{kind}[{index}]", name, config[kind])
    for name, model in config["models"].items():
        _check_source(f"models.{name}.checkpoint", model["checkpoint"], ("hub", "path", "package"))
        if "base" in model["checkpoint"]:
            base = model["checkpoint"]["base"]
            _check_source(f"models.{name}.checkpoint.base", base, ("hub", "path"))
        if "folder" in model["checkpoint"] and "package" not in model["checkpoint"]:
            raise ConfigError(f"models.{name}.checkpoint.folder: goes with package only.")
        for field, dataset in datasets_of(model).items():
            _known(f"models.{name}.{field}", dataset, config["datasets"])
        for title, benchmark in model.get("published", {}).items():
            for dataset in benchmark["scores"]:
                _known(f"models.{name}.published.{title}.scores", dataset, config["datasets"])
    for name, dataset in config["datasets"].items():
        _check_source(f"datasets.{name}", dataset, ("hub", "path", "documents_folder"))
    for name in config["variants"]:
        for fault in _faults_of_variant(name, config["variants"]):
            raise ConfigError(f"variants.{name}.{fault}")


def _known(field: str, name: str, defined: Iterable[str]) -> None:
    if name not in defined:
        near = _near(name, defined) if len(list(defined)) > _NEAR_NAMES else []
        hint = f"near names are {_list(near)}" if near else f"defined are {_list(defined)}"
        raise ConfigError(f"{field}: {name!r} is not defined; {hint}.")


def _near(name: str, defined: Iterable[str]) -> list[str]:
    """The most similar names: spelt alike, or sharing a word."""
    words = set(re.split(r"[-_.]", name.lower()))
    sharing = [other for other in defined if words & set(re.split(r"[-_.]", other.lower()))]
    alike = difflib.get_close_matches(name, defined, n=_NEAR_NAMES)
    return list(dict.fromkeys([*alike, *sharing]))[:_NEAR_NAMES]


def _check_source(field: str, entry: Mapping[str, Any], sources: tuple[str, ...]) -> None:
    found = [key for key in sources if key in entry]
    if len(found) != 1:
        raise ConfigError(f"{field}: needs exactly one of {_list(sources)}; found {_list(found)}.")
    if ("hub" in entry) != ("revision" in entry):
        fault = "is missing; a hub id needs its commit" if "hub" in entry else "goes with hub only"
        raise ConfigError(f"{field}.revision: {fault}.")


def _faults_of_variant(name: str, variants: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Keys of a variant that contradict another one, each with what is wrong."""
    variant = variants[name]
    precision, external = variant["precision"], variant.get("external_data", {})
    if (external.get("layout") == "shard") != ("max_shard_bytes" in external):
        yield "external_data.max_shard_bytes: is needed for layout shard, and only there."
    if precision not in _INTEGER:
        for key in [key for key in ("base", "quantization") if key in variant]:
            yield f"{key}: goes with precision {' or '.join(_INTEGER)}."
        return
    if "base" not in variant:
        yield f"base: is missing; {precision} is made from another variant."
    if "opset" in variant:
        yield f"opset: a variant of precision {precision} has its base's."
    _known(f"variants.{name}.base", base := variant["base"], variants)
    if (found := variants[base]["precision"]) in _INTEGER:
        yield f"base: {base!r} is {found}; {precision} is made from a float one."
