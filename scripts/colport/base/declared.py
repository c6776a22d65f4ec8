"""How a setting is declared: what it may be, as keywords of JSON Schema on its annotation.

The config's schema and the tables of its page are made from them (``config/schemas/generate.py``);
what code gives is checked by the same ones. pydantic reads them, and nothing here needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from colport.base.errors import ConfigError

PARITY_INPUTS = 48
PARITY_BATCH_SIZES = (1, 8)
"""Defaults of settings that no class holds, for the config and for the command."""


class Allowed:
    """Keywords of JSON Schema, as metadata of an ``Annotated`` type."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """How pydantic asks for the schema of the annotated type."""
        return {**handler(schema), **self.keywords}

    def expected(self, value: Any) -> str:
        """What is allowed in place of a value, or an empty text."""
        match self.keywords:
            case {"enum": words} if value not in words:
                return f"allowed are {', '.join(map(str, words))}"
            case {"minimum": least} if not value >= least:
                return f"expected at least {least}"
            case {"exclusiveMinimum": least} if not value > least:
                return f"expected more than {least}"
            case {"maximum": most} if not value <= most:
                return f"expected at most {most}"
            case {"exclusiveMaximum": most} if not value < most:
                return f"expected less than {most}"
            case {"minItems": least} if len(value) < least:
                return f"expected at least {least} of them"
            case {"uniqueItems": True} if len(set(value)) < len(value):
                return "expected different ones"
        return ""


Count = Annotated[int, Allowed(minimum=1)]
Natural = Annotated[int, Allowed(minimum=0)]
NotNegative = Annotated[float, Allowed(minimum=0)]
Positive = Annotated[float, Allowed(exclusiveMinimum=0)]
Sizes = Annotated[tuple[Count, ...], Allowed(minItems=1, uniqueItems=True)]
IN_CODE = Allowed(inCode=True)
"""Marks a setting that only code gives: it is no key of the config."""


def check(settings: Any, place: str = "") -> None:
    """Refuse a number out of range, a word that is not allowed, and bounds that contradict.

    Lists, as a config has them, become tuples, and mappings the sections that they stand for.

    Args:
        settings: A dataclass; fields without a value (``None``) are left alone.
        place: What stands before a field's name in the message.

    Raises:
        ConfigError: There is one.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        section = next(filter(is_dataclass, (hint, *get_args(hint))), None)
        if isinstance(value, list):
            object.__setattr__(settings, name, tuple(value))
        elif section and isinstance(value, Mapping):
            object.__setattr__(settings, name, value := section(**value))
        if is_dataclass(value):
            check(value, f"{place}{name}.")
        for rule, given in _ruled(hint, value) if value is not None else ():
            if expected := rule.expected(given):
                raise ConfigError(f"{place}{name}: found {value!r}; {expected}.")
    least = getattr(settings, "min_seconds", 0)
    most = getattr(settings, "max_seconds", math.inf)
    if most < least:
        raise ConfigError(
            f"{place}max_seconds: found {most}; expected at least min_seconds, {least}."
        )


def _ruled(hint: Any, value: Any) -> Iterator[tuple[Allowed, Any]]:
    """Every rule of an annotation with what it is for: the value, or an item of it."""
    yield from ((rule, value) for rule in getattr(hint, "__metadata__", ()))
    if isinstance(value, list | tuple):
        of_tuple = get_args(getattr(hint, "__origin__", hint))
        for item in value if of_tuple else ():
            yield from _ruled(of_tuple[0], item)
