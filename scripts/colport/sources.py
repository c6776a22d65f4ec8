"""Content hash of the library code that a script runs, found by following its imports.

Snakemake does not watch imported modules; this hash, as a parameter of each rule, reruns what an
edit affects and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from colport.artifacts import content_hash

_PACKAGE = Path(__file__).parent


def code_hash(script: Path | str) -> str:
    """Hash over every module of the package that ``script`` can import, at any depth."""
    reached: set[Path] = set()
    pending = list(_imported(Path(script)))
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending.extend(_imported(module))
    return content_hash(reached)


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    """Files of the package that ``file`` imports, inside functions too."""
    if file.suffix != ".py":
        return ()
    found: set[Path] = set()
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            found |= _files(name)
    return tuple(sorted(found))


def _statements(module: ast.Module) -> Iterator[ast.AST]:
    """Every statement at any depth; expressions, most of a tree, import nothing."""
    pending: list[ast.AST] = [module]
    while pending:
        node = pending.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending.extend(getattr(node, part, ()))


def _files(module: str) -> set[Path]:
    """The module's file, the packages above it, and all of a package that loads by name."""
    parts = module.split(".")
    if parts[0] != _PACKAGE.name:
        return set()
    path = _PACKAGE.joinpath(*parts[1:])
    files = set()
    if path.with_suffix(".py").is_file():
        files.add(path.with_suffix(".py"))
    elif path.is_dir() and len(parts) > 1:
        # A package may choose its modules at run time (families) or read data files (report).
        files |= {file for file in path.iterdir() if file.is_file()}
        files |= {
            file
            for folder in path.iterdir()
            if folder.is_dir() and not (folder / "__init__.py").is_file()
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".pyc"
        }
    return files
