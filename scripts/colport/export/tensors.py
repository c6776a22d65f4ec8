"""Every tensor of a checkpoint is read by a graph, or its family says why it is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx_ir as ir

from colport.base.errors import ExportError
from colport.families.base import Skeleton
from colport.families.reference.skeletons import COMPUTED, reason
from colport.tensors.streaming import StreamedTensor
from colport.tensors.weights import TensorEntry, TensorIndex, read_header


def unread(
    models: Iterable[ir.Model], skeleton: Skeleton, checkpoint: Path
) -> list[dict[str, str]]:
    """The checkpoint's tensors that no graph reads: ``file``, ``tensor`` and ``reason``.

    Args:
        models: Graphs whose weights are attached.
        skeleton: What they were traced from.
        checkpoint: The checkpoint, which files are named from.

    Raises:
        ExportError: A tensor is not read, and nobody says why.
    """
    used = {name for model in models for name in _weights(model)} & skeleton.sources.keys()
    read = {part for name in used for part in skeleton.sources[name].parts}
    replaced = {part.replaces for part in read}
    names = {part: name for name, source in skeleton.sources.items() for part in source.parts}
    rows, lost = [], []
    for entry in sorted(_stored(names) - read, key=lambda entry: (entry.file, entry.key)):
        if entry in replaced:
            why = "replaced by the adapter's own"
        else:
            why = reason({**skeleton.unread, **COMPUTED}, entry.key, names.get(entry, ""))
        if not why:
            lost.append(entry)
        file = entry.file.relative_to(checkpoint) if entry.file.is_relative_to(checkpoint) else ""
        rows.append({"file": str(file or entry.file.name), "tensor": entry.key, "reason": why})
    if lost:
        raise ExportError(
            f"{lost[0].file}: {len(lost)} tensors are read by no graph, first {lost[0].key!r}; "
            "the model's family gives no reason to leave them out."
        )
    return rows


def _weights(model: ir.Model) -> Iterator[str]:
    """Names of the parameters and buffers whose values a graph holds."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, StreamedTensor):
            yield value.name.partition("^")[0]


def _stored(used: Iterable[TensorEntry]) -> set[TensorEntry]:
    """All tensors of the files that gave one, and of the shards beside them."""
    files = {entry.file for entry in used}
    found = {entry for file in files for entry in read_header(file).values()}
    for folder in {file.parent for file in files}:
        if (folder / "model.safetensors.index.json").is_file():
            found |= set(TensorIndex(folder).values())
    return found
