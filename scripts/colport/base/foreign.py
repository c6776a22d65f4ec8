"""Files of others: text and JSON that cannot crash a reader, names that stay in their folder."""

from __future__ import annotations

import codecs
import json
import os
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

from colport.base.errors import ConfigError

MAX_JSON_BYTES = 2**26
"""The largest configuration or manifest that is read; the largest known tokenizers have half."""


_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def load_text(file: Path) -> str:
    r"""The text of a file in UTF-8, without its byte-order mark; each line ends in ``\n``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is in another encoding; the message completes a sentence about it.
    """
    content = file.read_bytes()
    for mark, name in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"is {name} text; allowed is UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error
    if (place := text.find("\0")) >= 0:
        raise ValueError(
            f"holds a NUL character (character {place + 1}), as UTF-16 text does; allowed is UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def local(path: Path | str) -> Path:
    """A path with ``~`` for the user's folder, as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def parse_json(text: str | bytes) -> Any:
    """A JSON document in which no object has a key twice.

    Raises:
        ValueError: It is not JSON, says a key twice, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_json(file: Path) -> Any:
    """The JSON document of a small file; see :func:`parse_json`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or larger than :data:`MAX_JSON_BYTES`.
    """
    if (size := file.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"it has {size} bytes, more than {MAX_JSON_BYTES}")
    return parse_json(file.read_text(encoding="utf-8"))


def leaves_folder(name: str) -> bool:
    """Whether a relative path is absolute, an address, goes up, or is no path at all."""
    parts = PurePosixPath(name.replace("\\", "/"))
    odd = not name or ":" in name or not name.isprintable()
    return odd or parts.is_absolute() or ".." in parts.parts


def is_inside(folder: Path, name: str) -> bool:
    """Whether a file of the folder lies in it, or is a link that the Hub's cache made."""
    if leaves_folder(name):
        return False
    root = folder.resolve()
    roots = [root]
    for place in (root, *root.parents):
        if place.parent.name == "snapshots":
            roots.append(place.parents[1] / "blobs")
            break
    target = Path(os.path.realpath(folder / name))  # resolve() does not take a circle of links
    return any(target.is_relative_to(allowed) for allowed in roots)


def not_text(text: str) -> str | None:
    """What a string holds that is no text and has no UTF-8: half of a surrogate pair.

    JSON writes such halves as escapes, Python keeps a file name's odd bytes as such.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        return f"half a surrogate pair (U+{half:04X}) as character {error.start + 1}"
    return None


def refuse_not_text(text: Path | str) -> None:
    """Refuse a path or text that no record can hold.

    Raises:
        ConfigError: It is not UTF-8.
    """
    if half := not_text(str(text)):
        shown = str(text).encode(errors="backslashreplace").decode()
        raise ConfigError(f"{shown}: is not UTF-8 ({half}); give it another name.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it says {twice!r} twice")
    return found


_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "object": dict, "null": type(None)}


def table_beside(module: str) -> dict[str, Any]:
    """The TOML table beside a module of this library.

    Args:
        module: ``__file__`` of the module.
    """
    return tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))


def shape_beside(module: str) -> Any:
    """The shape for :func:`misfit` that a TOML table beside a module states.

    Types are by name, ``|`` between several, and the key ``*`` is of every entry of an object.

    Args:
        module: ``__file__`` of the module.
    """
    return _shape(table_beside(module))


def _shape(stated: Any) -> Any:
    if isinstance(stated, str):
        return tuple(_TYPES[name] for name in stated.split("|"))
    if isinstance(stated, list):
        return [_shape(stated[0])]
    return {str if key == "*" else key: _shape(part) for key, part in stated.items()}


def misfit(value: Any, shape: Any, place: str = "", closed: bool = False) -> str | None:
    """Where a JSON value is not of a shape, and what is expected there; ``None`` if it fits.

    Args:
        value: What was read.
        shape: A type or a tuple of types; ``[shape]`` for a list of such; ``{str: shape}`` for an
            object of such; an object of shapes by key, others being free and ``key?`` optional.
        place: Name of the value.
        closed: Whether no other keys are allowed.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{place or 'it'} is {type(value).__name__}, expected an object"
        if str in shape:
            inner = [(key, key, shape[str]) for key in value]
        else:
            inner = [(key.removesuffix("?"), key, part) for key, part in shape.items()]
        for key, named, part in inner:
            if key not in value:
                if str in shape or named.endswith("?"):
                    continue
                return f"{place + '.' if place else ''}{key} is missing"
            if found := misfit(value[key], part, f"{place}.{key}" if place else key, closed):
                return found
        if closed and (unknown := value.keys() - {key for key, *_ in inner}):
            return f"{place}.{min(unknown)} is unknown here; a newer ColPort may read it"
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is {type(value).__name__}, expected a list"
        found = (misfit(part, shape[0], f"{place}[{i}]", closed) for i, part in enumerate(value))
        return next(filter(None, found), None)
    types = shape if isinstance(shape, tuple) else (shape,)
    fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if fits and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{place} is a number of more than 64 bits"
    if fits:
        return None
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
    return f"{place} is {type(value).__name__}, expected {names}"
