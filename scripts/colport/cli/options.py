"""Arguments and options of the commands, and what those that several share mean."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from colport.base.errors import CheckpointError
from colport.base.foreign import local, refuse_not_text
from colport.hub import checkpoints
from colport.pipeline import variants

if TYPE_CHECKING:
    from colport.tensors.external_data import Layout

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_HUB_ID = re.compile(rf"({checkpoints.HUB_ID.pattern})(?:@([^@\s]+))?")


def _bytes(text: str) -> int:
    """``500MB`` or ``2GiB`` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip().lower())
    if not match or match[2] not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise typer.BadParameter(f"{text!r} is no size; write 2GB, 500MB or a number of bytes.")
    return size


_SIZES = {"bytes": _bytes, "megabytes": lambda text: _bytes(text) / 1e6}
_DECLARED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def declared(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters are the arguments and options that ``options.yaml`` says.

    An entry has what :class:`typer.Option` takes: ``help``, ``min``, ``show_default``; ``flags`` if
    the option is not called as its parameter alone; ``argument`` marks arguments; ``size`` is the
    unit in which a command takes a number of bytes. Paths may begin with ``~``, which shells leave
    as it is behind ``=``.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        entry = dict({**_DECLARED["shared"], **_DECLARED.get(command.__name__, {})}[name])
        kind = typer.Argument if entry.pop("argument", False) else typer.Option
        if unit := entry.pop("size", None):
            entry |= {"parser": _SIZES[unit], "metavar": "SIZE"}
        entry["help"] = entry["help"].format(variants=", ".join(variants.ready_made()))
        info = kind(*entry.pop("flags", ()), **entry)
        parameters.append(parameter.replace(annotation=Annotated[parameter.annotation, info]))
    called = at_home(command)
    called.__signature__ = signature.replace(parameters=parameters)
    return called


def at_home(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose paths may begin with ``~``."""

    @wraps(command)
    def called(**arguments: Any) -> None:
        command(**{name: _at_home(given) for name, given in arguments.items()})

    return called


def _at_home(given: Any) -> Any:
    if isinstance(given, list):
        return [_at_home(item) for item in given]
    refuse_not_text(str(given))
    return local(given) if isinstance(given, Path) else given


def layout(name: str | None, max_shard_bytes: int | None) -> Layout:
    """The layout that the options ask for."""
    from colport.tensors.external_data import Layout

    return Layout(name or ("shard" if max_shard_bytes else "split"), max_shard_bytes)


def declaration(checkpoint: str, base: str | None = None) -> dict[str, Any]:
    """A checkpoint in the words of a config.

    Raises:
        CheckpointError: Neither a folder nor a Hub id.
    """
    declared = {"base": declaration(base)} if base else {}
    if local(checkpoint).is_dir():
        return {"path": checkpoint, **declared}
    if match := _HUB_ID.fullmatch(checkpoint):
        return {"hub": match[1], "revision": match[2] or "main", **declared}
    raise CheckpointError(
        f"{checkpoint}: is neither a folder here nor a Hub id, which has the form org/name@commit."
    )


def resolved(
    checkpoint: str, base: str | None, workspace: Path, quiet: bool, report: Callable[[str], None]
) -> dict[str, Any]:
    """The checkpoint's record: its folder, where it came from, the digests of its weights.

    Args:
        checkpoint: A local folder or a Hub id.
        base: The same, for an adapter's base.
        workspace: Folder for links, if the checkpoint consists of several.
        quiet: No progress bars of downloads.
        report: Called with what was found, and what is laid on what.

    Raises:
        CheckpointError: It is not there, or is damaged.
    """
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # of weights that are loaded, on top of ours
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    record = checkpoints.record(declaration(checkpoint, base), "", workspace)
    for sentence in (f"checkpoint {record['source']}", *record["applied"]):
        report(sentence)
    return record
