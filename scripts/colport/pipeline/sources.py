"""Content hash of the library code that a script runs, found by following its imports.

Snakemake does not watch imported modules; this hash, as a parameter of each rule, reruns what an
edit affects and nothing else. Comments, docstrings and imports for type checkers affect nothing.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(script: Path | str) -> str:
    """Hash over a script and every file of the package that it can load, at any depth."""
    digest = hashlib.sha256(_read(Path(script))[0])
    for file in sorted(loaded(script)):
        digest.update(str(file.relative_to(_PACKAGE)).encode())
        digest.update(_read(file)[0])
    return digest.hexdigest()[:16]


def loaded(script: Path | str) -> set[Path]:
    """The modules of the package that ``script`` can import, and the files that these read.

    The schema of the tables counts where tables are made or shown: of a column that a stage gives,
    the stage's own code has the name, and labels and meanings change none of its records.
    """
    reached: set[Path] = set()
    pending = [Path(script)]
    while pending:
        new = _read(pending.pop())[1] - reached
        reached |= new
        pending.extend(new)
    if _PACKAGE / "tables/__init__.py" not in reached:
        reached.discard(_PACKAGE / "base/columns.yaml")
    return reached


@cache
def _read(file: Path) -> tuple[bytes, frozenset[Path]]:
    """What a file does, and the files of the package that it names."""
    content = file.read_bytes()
    if file.suffix != ".py":
        return content, frozenset()
    tree = ast.parse(content)
    found = {other for other in file.parent.glob(f"{file.stem}.*") if other.suffix != ".py"}
    for node in list(ast.walk(tree)):
        if isinstance(node, _DOCUMENTED):
            node.body = [part for part in node.body if not _is_text(part)]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        found |= set(_named(node, file))
    return ast.dump(tree).encode(), frozenset(found - {file})


def _is_text(statement: ast.stmt) -> bool:
    """Whether it says something to readers alone: a docstring, also that of a constant or field."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _named(node: ast.AST, file: Path) -> Iterator[Path]:
    """Files that a part of a module's code names."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield from _modules(alias.name)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            for alias in names:
                yield from _modules(f"{module}.{alias.name}") or _modules(module)
        case ast.Constant(value=str(text)) if text.startswith(f"{_PACKAGE.name}."):
            # Workers and factories are named by strings: ``colport.runtime.encoder:Encoder``.
            yield from _modules(text.partition(":")[0])
        case ast.Call(func=ast.Name(id="import_module"), args=[ast.JoinedStr()]):
            yield from file.parent.glob("*.py")  # families are chosen at run time
        case ast.Attribute(
            value=ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]), attr="parent"
        ):
            yield from _data(file.parent)


def _modules(name: str) -> list[Path]:
    """The module's file and the packages above it; nothing if the package has no such module.

    The package itself is left out, since it loads its encoder only where that is asked for.
    """
    top, *parts = name.split(".")
    path = _PACKAGE.joinpath(*parts)
    places = [path.with_suffix(".py"), path / "__init__.py"]
    if top != _PACKAGE.name or not (own := [place for place in places if place.is_file()]):
        return []
    above = [_PACKAGE.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    return own + [file for file in above if file.is_file()]


def _data(folder: Path) -> Iterator[Path]:
    """Files other than modules in a folder and in those below it that are no packages."""
    for item in folder.iterdir():
        if item.is_dir() and not (item / "__init__.py").is_file():
            yield from _data(item)
        elif item.is_file() and item.suffix not in (".py", ".pyc"):
            yield item
