"""Arguments and options that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from colport.base.errors import CheckpointError
from colport.base.foreign import local
from colport.hub import checkpoints

if TYPE_CHECKING:
    from colport.tensors.external_data import Layout

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_HUB_ID = re.compile(r"^([\w-][\w.-]*/[\w-][\w.-]*)(?:@([^@]+))?$")


def _bytes(text: str) -> int:
    """``500MB`` or ``2GiB`` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip().lower())
    if not match or match[2] not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise typer.BadParameter(f"{text!r} is no size; write 2GB, 500MB or a number of bytes.")
    return size


Folder = Annotated[Path, typer.Argument(help="An exported folder.", show_default=False)]
Checkpoint = Annotated[
    str, typer.Argument(help="A local folder, or a Hub id with its commit: org/name@commit.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No steps, no progress bar.")]
LayoutName = Annotated[
    Literal["split", "merge", "shard"] | None,
    typer.Option(
        "--layout",
        help="Weights in one file beside the graphs (split), in the graphs, or in several files.",
        show_default="split",
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--max-shard-bytes",
        help="Largest weights file, as 2GB or in bytes; means layout shard.",
        parser=_bytes,
        metavar="SIZE",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint an adapter was trained on: a folder or a Hub id; by default what the "
        "adapter names.",
        show_default=False,
    ),
]

Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Run the folder on built-in inputs and compare, before it has its name.",
    ),
]


ReferenceMemory = Annotated[
    int | None,
    typer.Option(
        "--reference-memory",
        help="Memory that the checkpoint in PyTorch may take, as 6GB or in bytes; if it needs "
        "more, its weights are read from its files in each pass.",
        parser=_bytes,
        metavar="SIZE",
        show_default="what is available",
    ),
]


def megabytes(size: int | None) -> float | None:
    """Bytes of an option in MB."""
    return None if size is None else size / 1e6


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
    if match := _HUB_ID.match(checkpoint):
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
