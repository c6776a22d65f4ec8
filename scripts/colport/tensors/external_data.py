"""Where the weights of an exported folder lie: beside the graphs, inside them, or in shards.

Tensors of the same name in two graphs are one tensor, written once. They are produced and
written one at a time: memory is that of the largest tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import onnx_ir as ir

from colport.base import declared
from colport.base.errors import ArtifactError, ConfigError, ExportError, read_of
from colport.base.files import require_space
from colport.base.foreign import leaves_folder
from colport.base.redaction import plain
from colport.tensors.streaming import stored_blocks

MODES = ("split", "merge", "shard")

PROTOBUF_LIMIT = 2**31 - 1
"""Largest message that protobuf serialises, in bytes."""

INLINE_BYTES = 1024
"""Tensors below this size stay inside the graph in every layout."""

_PAGE = 4096  # large tensors start on a page, so that they can be mapped
_CACHE_LINE = 64
_GRAPH_OVERHEAD = 2**24  # room for the nodes of a merged graph, in bytes

Progress = Callable[[int, int], None]
"""Called with the bytes of weights written so far, and those of all."""


@dataclass(frozen=True)
class Layout:
    """Where the weights lie; the ``external_data`` section of a variant.

    Raises:
        ConfigError: The layout is unknown, or goes without a size of shards that it needs.
    """

    layout: Annotated[str, declared.Allowed(enum=MODES)] = "split"
    """One file beside the graphs (``split``), inside each graph, up to 2 GiB (``merge``), or files
    of a largest size (``shard``)."""

    max_shard_bytes: Annotated[int | None, declared.Allowed(minimum=1)] = None
    """Largest shard file; for ``shard``, and needed there."""

    def __post_init__(self) -> None:
        declared.check(self)
        if (self.layout == "shard") != (self.max_shard_bytes is not None):
            raise ConfigError("max_shard_bytes: is needed for layout 'shard', and only there.")


def write(
    models: Mapping[str, ir.Model],
    folder: Path,
    layout: Layout,
    progress: Progress | None = None,
    stem: str = "weights",
) -> list[str]:
    """Write ``{name}.onnx`` for every model, and their weights.

    Args:
        models: Graph name to model; initializers of one name must be one tensor.
        folder: An existing folder.
        layout: Where weights go.
        progress: Called after each block of weights.
        stem: What the names of the weight files begin with.

    Returns:
        Names of the weight files, empty for ``merge``.

    Raises:
        ExportError: A merged graph or a tensor is over the limit, or two tensors share a name.
        ArtifactError: The weights do not fit on the disk.
    """
    if layout.layout == "merge":
        names = _merge(models, folder, progress)
    else:
        names = _write_beside(models, folder, layout, progress, stem)
    for name, model in models.items():
        try:
            ir.save(model, folder / f"{name}.onnx")
        except ir.serde.SerdeError as error:  # its message is the whole model; the cause's is not
            reason = plain(error.__cause__ or error)
            raise ArtifactError(f"{name}.onnx: cannot be written as ONNX ({reason}).") from error
    return names


def read(file: Path) -> ir.Model:
    """Load a graph; external tensors stay on disk until they are read.

    Raises:
        ArtifactError: Not an ONNX file, or external data that leaves its folder or is truncated.
    """
    # protobuf raises its own classes for damaged files
    with read_of(ArtifactError, file, "is not an ONNX file ({})", Exception):
        model = ir.load(file)
    _check_nodes(file, model)
    for tensor in _stored_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(file, tensor)
    return model


def _stored_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol | None]:
    """Every tensor of a file: a hostile one may hide it in a subgraph or an attribute."""
    for graph in model.graphs():
        yield from (value.const_value for value in graph.initializers.values())
        for attribute in (item for node in graph for item in node.attributes.values()):
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.value


def _check_nodes(file: Path, model: ir.Model) -> None:
    """Every node has as many inputs and outputs as its operator takes, so that passes may index."""
    from onnx.defs import SchemaError, get_schema

    for graph in model.graphs():
        for node in graph:
            version = model.opset_imports.get(node.domain)
            try:
                schema = get_schema(node.op_type, version, node.domain)
            except (SchemaError, TypeError, ValueError):
                continue  # of ONNX Runtime, a function of the model, or unknown to both
            fits = (
                schema.min_input <= len(node.inputs) <= schema.max_input
                and schema.min_output <= len(node.outputs) <= schema.max_output
            )
            if not fits:
                raise ArtifactError(
                    f"{file}: node {node.name!r} has {len(node.inputs)} inputs and "
                    f"{len(node.outputs)} outputs, which {node.op_type} does not take."
                )


def _check_external(file: Path, tensor: ir.ExternalTensor) -> None:
    name = str(tensor.location)
    inside = not isinstance(tensor.location, bytes) and not leaves_folder(name)
    location = (file.parent / name).resolve() if inside else file.parent
    if not inside or not location.is_relative_to(file.parent.resolve()):
        raise ArtifactError(
            f"{file}: tensor {tensor.name!r} is in {name!r}, which lies outside its folder."
        )
    start, claimed = tensor.offset or 0, max(tensor.nbytes, tensor.length or 0)
    size = location.stat().st_size if location.is_file() else -1
    if start < 0 or size < start + claimed:
        raise ArtifactError(
            f"{location}: is {'missing' if size < 0 else 'truncated'}; "
            f"tensor {tensor.name!r} is at bytes {start} to {start + claimed}."
        )


def tensors_by_name(models: Mapping[str, ir.Model]) -> dict[str, ir.TensorProtocol]:
    """Every initializer of the models, once per name.

    Raises:
        ExportError: Two graphs hold different tensors under one name.
    """
    tensors: dict[str, ir.TensorProtocol] = {}
    for model in models.values():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                raise ExportError(f"initializer {name!r} has no value.")
            known = tensors.setdefault(name, tensor)
            if (known.dtype, list(known.shape)) != (tensor.dtype, list(tensor.shape)):
                raise ExportError(f"initializer {name!r} differs between the graphs.")
    return tensors


class _Written:
    """Counts what is written, for ``progress``."""

    def __init__(self, total: int, folder: Path, progress: Progress | None) -> None:
        require_space(folder, total)
        self._total, self._done, self._progress = total, 0, progress

    def add(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress:
            self._progress(self._done, self._total)


def _merge(models: Mapping[str, ir.Model], folder: Path, progress: Progress | None) -> list[str]:
    sizes = {
        name: sum(value.const_value.nbytes for value in model.graph.initializers.values())
        for name, model in models.items()
    }
    for name, size in sizes.items():
        if size + _GRAPH_OVERHEAD > PROTOBUF_LIMIT:
            raise ExportError(
                f"{name}.onnx: layout 'merge' needs {size / 2**30:.2f} GiB in one file, above "
                "protobuf's 2 GiB; use 'split' or 'shard'."
            )
    written = _Written(sum(sizes.values()), folder, progress)
    for model in models.values():
        for name, value in model.graph.initializers.items():
            value.const_value = _in_memory(value.const_value, name)
            written.add(value.const_value.nbytes)
    return []


def _write_beside(
    models: Mapping[str, ir.Model],
    folder: Path,
    layout: Layout,
    progress: Progress | None,
    stem: str,
) -> list[str]:
    tensors = tensors_by_name(models)
    large = {name: t for name, t in tensors.items() if t.nbytes >= INLINE_BYTES}
    shards = _assign(large, layout)
    files = [f"{stem}-{n:05d}-of-{len(shards):05d}.onnx_data" for n in range(1, len(shards) + 1)]
    if layout.max_shard_bytes is None:
        files = [f"{stem}.onnx_data"][: len(shards)]
    written = _Written(sum(tensor.nbytes for tensor in large.values()), folder, progress)
    places: dict[str, ir.ExternalTensor] = {}
    for file, names in zip(files, shards, strict=True):
        with (folder / file).open("wb") as stream:
            for name in names:
                places[name] = _append(stream, name, large[name], written)
    for model in models.values():
        for name, value in model.graph.initializers.items():
            value.const_value = places.get(name) or _in_memory(value.const_value, name)
    return files


def _assign(tensors: Mapping[str, ir.TensorProtocol], layout: Layout) -> list[list[str]]:
    """Tensor names of each file, in order."""
    if layout.max_shard_bytes is None:
        return [list(tensors)] if tensors else []
    shards: list[list[str]] = []
    used = math.inf
    for name, tensor in tensors.items():
        if tensor.nbytes > layout.max_shard_bytes:
            raise ExportError(
                f"max_shard_bytes: {layout.max_shard_bytes} is below tensor {name!r} of "
                f"{tensor.nbytes} bytes."
            )
        start = _aligned(int(used), tensor.nbytes) if shards else 0
        if not shards or start + tensor.nbytes > layout.max_shard_bytes:
            shards.append([])
            start = 0
        shards[-1].append(name)
        used = start + tensor.nbytes
    return shards


def _append(
    stream: BinaryIO, name: str, tensor: ir.TensorProtocol, written: _Written
) -> ir.ExternalTensor:
    file, offset = Path(stream.name), _aligned(stream.tell(), tensor.nbytes)
    stream.write(b"\0" * (offset - stream.tell()))
    for chunk in _chunks(tensor):
        written.add(stream.write(chunk))
    if (size := stream.tell() - offset) != tensor.nbytes:
        raise ExportError(f"tensor {name!r} wrote {size} bytes, expected {tensor.nbytes}.")
    place = {"shape": tensor.shape, "name": name, "base_dir": file.parent}
    return ir.ExternalTensor(file.name, offset, tensor.nbytes, tensor.dtype, **place)


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The tensor's bytes in storage order, never more than a block at a time."""
    if tensor.dtype.bitwidth < 8:
        yield tensor.tobytes()
        return
    for block in stored_blocks(tensor):
        yield memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8))


def _aligned(offset: int, nbytes: int) -> int:
    step = _PAGE if nbytes >= _PAGE * 16 else _CACHE_LINE
    return -(-offset // step) * step


def _in_memory(tensor: ir.TensorProtocol, name: str) -> ir.Tensor:
    values = np.array(tensor.numpy())
    return ir.Tensor(values, dtype=tensor.dtype, shape=ir.Shape(list(tensor.shape)), name=name)
