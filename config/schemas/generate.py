"""Write what follows from settings and columns: the config's schema, and the tables of two pages.

    python config/schemas/generate.py            # after an edit of a setting or a column
    python config/schemas/generate.py --check    # writes nothing; exit code 1 where a file differs

Settings are in ``settings.py`` and in the classes of the library that it names. A table of
``config/README.md`` stands between ``<!-- settings of SECTION -->``, with all of its keys, or
``<!-- settings of SECTION: KEY, KEY -->``, and ``<!-- end of settings -->``. A section is its path;
``*`` is any name of the user's, ``config`` the whole. Columns are in the library's
``base/columns.yaml``; those of a table stand in ``results/README.md`` between
``<!-- columns of TABLE -->`` and ``<!-- end of columns -->``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema
from settings import Config

from colport.base.columns import COLUMNS, TABLES

ROOT = Path(__file__).parents[2]
SCHEMA = "config/schemas/config.schema.yaml"
PAGES = ("config/README.md", "results/README.md")
_HEAD = """\
# Schema of config.yaml, for its check and for editors. Written by generate.py: edit settings.py.
# Defaults of sections are filled in when the config is read; below a name of the user's they are
# what the code takes.
"""
_TABLE = re.compile(
    r"(<!-- (settings|columns) of (\S+?)(?:: (.*?))? -->\n).*?(<!-- end of \2 -->)", re.DOTALL
)
_KINDS = {
    "settings": ("setting", ("key", "type", "allowed", "default", "meaning")),
    "columns": ("table", ("column", "type", "meaning")),
}


class JsonSchema(GenerateJsonSchema):
    """JSON Schema as a YAML file is written: what may be left out is absent, not null."""

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        """``T | None`` is ``T``."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """No default of null; that of a section is the empty one, which is filled in."""
        found = super().default_schema(schema)
        if "default_factory" in schema and (refers := {"$ref", "additionalProperties"} & {*found}):
            return {**found, "default": {}} if refers else found
        return {key: value for key, value in found.items() if (key, value) != ("default", None)}

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        """Names are checked as names, so that a wrong one is no unknown key."""
        keys = self.generate_inner(schema["keys_schema"])
        values = self.generate_inner(schema["values_schema"])
        names = {"propertyNames": keys} if "pattern" in keys else {}
        return {"type": "object", **names, **({"additionalProperties": values} if values else {})}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Titles are ours."""
        return False


def schema() -> dict[str, Any]:
    """The JSON schema of the config, without references."""
    found = Config.model_json_schema(schema_generator=JsonSchema)
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | _plain(found, found["$defs"])


def _plain(part: Any, definitions: dict[str, Any]) -> Any:
    """A part with its references resolved, inlined sections dissolved and texts on one line."""
    if isinstance(part, list):
        return [_plain(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if reference := part.get("$ref"):
        further = {key: value for key, value in part.items() if key != "$ref"}
        meant = {**definitions[reference.split("/")[-1]], "description": None, **further}
        return _plain(
            {key: value for key, value in meant.items() if value is not None}, definitions
        )
    # The type comes first: of two mistakes in one value, that is the one to be told.
    first = {"type": part["type"]} if "type" in part else {}
    part = first | {key: value for key, value in part.items() if key != "$defs"}
    if "enum" in part or "const" in part or "properties" in part:
        part.pop("title", None)
    if "enum" in part or "const" in part:
        part.pop("type", None)
        return _described(part)
    part = {
        key: {name: _plain(item, definitions) for name, item in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in part.items()
    }
    properties: dict[str, Any] = {}
    for name, item in part.get("properties", {}).items():
        if item.pop("inline", False):
            properties |= item["properties"]
        elif not item.get("inCode"):
            properties[name] = item
    if properties:
        part["properties"] = properties
        required = [name for name in part.pop("required", ()) if name in properties]
        part |= {"required": required} if required else {}
    return _described(part)


def _described(part: dict[str, Any]) -> dict[str, Any]:
    if "description" not in part:
        return part
    text = " ".join(part.pop("description").replace("``", "`").split())
    return {**part, "description": text}


def written(found: dict[str, Any]) -> str:
    """The schema's file."""
    return _HEAD + yaml.safe_dump(
        _listed(found), sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )


def _listed(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _listed(item) for key, item in part.items()}
    return [_listed(item) for item in part] if isinstance(part, list | tuple) else part


def page(name: str, text: str, found: dict[str, Any]) -> str:
    """A page with its tables."""
    own = {place for _, _, place, keys, _ in _TABLE.findall(text) if not keys}

    def table(match: re.Match[str]) -> str:
        begin, kind, place, keys, end = match.groups()
        noun, head = _KINDS[kind]
        try:
            rows = _columns(place) if kind == "columns" else _settings(place, keys, found, own)
        except KeyError as error:
            sys.exit(f"{name}: {begin.strip()}: {error} is no {noun}.")
        lines = "".join(f"| {' | '.join(row)} |\n" for row in [head, *rows])
        return begin + lines.replace("\n", f"\n|{'---|' * len(head)}\n", 1) + end

    return _TABLE.sub(table, text)


def _columns(place: str) -> list[tuple[str, ...]]:
    """The columns of a table, those that it always has first."""
    table = TABLES[place]
    rows = []
    for name in table.all:
        kind = COLUMNS[name].type + ("" if name in table.columns else ", further")
        meaning = " ".join(table.meanings.get(name, COLUMNS[name].meaning).split())
        rows.append((f"`{name}`", kind, meaning.replace("|", "\\|")))
    return rows


def _settings(
    place: str, keys: str | None, section: dict[str, Any], own: set[str]
) -> list[tuple[str, ...]]:
    """Chosen settings of a section, or all."""
    for step in place.split(".") if place != "config" else ():
        values = section.get("additionalProperties")
        section = values if step == "*" else section["properties"][step]
    chosen = keys.split(", ") if keys else section["properties"]
    return [row for key in chosen for row in _rows(place, key, section, own)]


def _rows(
    place: str, key: str, section: dict[str, Any], own: set[str]
) -> Iterator[tuple[str, ...]]:
    """The row of a setting; for a section without a table of its own those of its settings, too."""
    entry = section["properties"][key]
    inner, place = entry.get("properties", {}), f"{place}.{key}".removeprefix("config.")
    if "description" in entry or not inner:
        default = "needed" if key in section.get("required", ()) else _value(entry.get("default"))
        meaning = entry.get("description", "").replace("|", "\\|")
        yield f"`{key}`", _type(entry), _allowed(entry), default, meaning
    for name in inner if place not in own else ():
        for shown, *rest in _rows(place, name, entry, own):
            yield f"`{key}`: {shown}", *rest


def _value(value: Any) -> str:
    """A default as YAML has it; none where there is none, or where it is what its parts are."""
    if value is None or value == {}:
        return ""
    return f"`{yaml.safe_dump(_listed(value), default_flow_style=True).splitlines()[0]}`"


def _type(entry: dict[str, Any], many: str = "") -> str:
    """The type of a setting, in words.

    Args:
        entry: Its schema.
        many: The ending of a noun, ``s`` for the items of a list.
    """
    if "anyOf" in entry:
        return " or ".join(map(_type, entry["anyOf"]))
    kind = entry.get("type")
    if values := _values(entry):
        kind = "integer" if isinstance(values[0], int) else "string"
    if kind == "array":
        return f"list of {_type(entry['items'], 's')}"
    nouns = {"integer": "whole number", "number": "number", "object": "mapping", "string": "text"}
    return "true or false" if kind == "boolean" else (entry.get("title") or nouns[kind]) + many


def _allowed(entry: dict[str, Any]) -> str:
    """What of its type a setting may be, in words; nothing where it may be all."""
    if values := _values(entry):
        return ", ".join(f"`{value}`" for value in values)
    if "anyOf" in entry:
        return " or ".join(filter(None, map(_allowed, entry["anyOf"])))
    if inner := _allowed(entry["items"]) if entry.get("type") == "array" else "":
        return f"{'any of' if 'enum' in entry['items'] else 'each'} {inner}"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    bounds["exclusiveMaximum"] = "below"
    return " ".join(f"{word} {entry[key]}" for key, word in bounds.items() if key in entry)


def _values(entry: dict[str, Any]) -> list[Any]:
    """The values of a setting that has a few."""
    return [*entry.get("enum", ()), *([entry["const"]] if "const" in entry else ())]


def main() -> None:
    """Write both files, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the Snakefile")
    given = parser.parse_args()
    found = schema()
    texts = {SCHEMA: written(found)}
    texts |= {name: page(name, (given.root / name).read_text("utf-8"), found) for name in PAGES}
    differing = [
        name
        for name, text in texts.items()
        if not (given.root / name).is_file() or (given.root / name).read_text("utf-8") != text
    ]
    for name in differing:
        if given.check:
            print(f"{name}: differs from what is declared; run `make settings`.", file=sys.stderr)
        else:
            (given.root / name).write_text(texts[name], "utf-8")
            print(name)
    sys.exit(given.check and bool(differing))


if __name__ == "__main__":
    main()
