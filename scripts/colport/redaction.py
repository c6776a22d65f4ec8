"""Texts without access tokens, passwords and signed addresses, for whatever a person may read."""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType

HIDDEN = "•••"
SECRET_NAME = re.compile(r"(^|[_-])(token|password|passwd|secret|api[_-]?key|credentials?)$", re.I)
"""Names of settings and environment variables whose value is a secret."""

SECRET = re.compile(
    r"\b(?:hf|ghp|gho|glpat|sk)[_-][A-Za-z0-9_-]{16,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+@"
    r"|(?<=Bearer )[^\s'\"]{8,}"
)
"""Forms of a secret that are known without a variable."""

_SHORTEST = 8  # characters of an environment variable's value that is taken for a secret


def redacted(text: str) -> str:
    """``text`` without anything like a token, and without what a secret variable holds."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return SECRET.sub(HIDDEN, text)


def plain(error: BaseException) -> str:
    """First line of another library's message, without addresses, which may be signed."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return redacted(re.sub(r"\w+://\S+", "…", text)).rstrip(".")


def print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A hook for ``sys.excepthook``: what Python prints at the end, without secrets."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
