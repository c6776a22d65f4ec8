"""The library's lines of code by room; fails above the budget.

Counted are lines that hold code, imports included; docstrings, comments and blanks are not.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

BUDGET = 21_180
PACKAGE = Path(__file__).parents[1] / "scripts/colport"
_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER),
    *(tokenize.INDENT, tokenize.DEDENT),
}


def code_lines(source: str) -> int:
    """Lines of a module that hold code.

    >>> code_lines('"One line of text."\\n\\nx = [  # why\\n    1,\\n]\\n')
    3
    """
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def by_room() -> Counter[str]:
    """Lines of each folder of the library, and of the files beside them (``.``)."""
    found: Counter[str] = Counter()
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else "."
        found[room] += code_lines(file.read_text(encoding="utf-8"))
    return found


def main() -> int:
    """Print the count and the budget; 1 if it is exceeded."""
    found = by_room()
    for room, lines in found.items():
        print(f"{lines:7,}  {room}")
    print(f"{found.total():7,}  of {BUDGET:,}")
    return int(found.total() > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
