"""Texts without access tokens, passwords and signed addresses, for whatever a person may read."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any

HIDDEN = "•••"
_SECRET_NAME = re.compile(r"(^|[_-])(token|password|passwd|secret|api[_-]?key|credentials?)$", re.I)
_is_secret = cache(_SECRET_NAME.search)  # a report asks for every variable at every cell
_SECRET = re.compile(
    r"\b(?:hf|ghp|gho|glpat|sk)[_-][A-Za-z0-9_-]{16,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+@"
    r"|(?<=Bearer )[^\s'\"]{8,}"
)
_SHORTEST = 8  # characters of an environment variable's value that is taken for a secret


def redacted(value: Any, name: str = "") -> Any:
    """``value`` without anything like a token, and without what a secret variable holds.

    Args:
        value: A text, a mapping or a list of them at any depth; anything else is returned as it is.
        name: Setting that it is the value of.
    """
    if isinstance(value, Mapping):
        return {str(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if value and _is_secret(name):
        return HIDDEN
    if len(value) >= _SHORTEST:
        for variable in filter(_is_secret, list(os.environ)):
            if len(secret := os.environ.get(variable, "")) >= _SHORTEST:
                value = value.replace(secret, HIDDEN)
    return _SECRET.sub(HIDDEN, value)


def plain(error: BaseException) -> str:
    """First line of another library's message, without addresses, which may be signed."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return redacted(re.sub(r"\w+://\S+", "…", text)).rstrip(".")


def print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A hook for ``sys.excepthook``: what Python prints at the end, without secrets."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
