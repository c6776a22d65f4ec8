"""Safetensors files of a checkpoint, read one tensor at a time.

Headers are checked against the file sizes when the index is built, so that a truncated download
fails before an export starts. Tensors are read with plain file reads: memory is that of one
tensor, and mapped pages do not count against the process.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import CheckpointError, read_of
from colport.base.foreign import leaves_folder, load_json, misfit, parse_json

DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Names of the safetensors format and NumPy's."""

_MAX_HEADER = 25 * 10**6  # as the Hub's client; the reference implementation takes four times that
_ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Weights of a model, in one file or in shards."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""Weights of an adapter, as peft names them."""

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.bin")


@dataclass(frozen=True)
class StoredTensor(ABC):
    """A tensor that is read when it is needed, whole or in blocks of rows.

    Attributes:
        file: Where it comes from, for messages.
        key: Its name there.
        dtype: Element type of what is read.
        shape: Its shape.
        nbytes: Size of what is read, in bytes.
    """

    file: Path
    key: str
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorEntry, ...]:
        """The tensors of files that it is made of."""

    def read(self) -> np.ndarray:
        """Read the tensor into memory.

        Raises:
            CheckpointError: A file ended early or cannot be read.
        """
        return self.read_rows(0, self.shape[0])

    @abstractmethod
    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Read rows of the first axis; see :meth:`read`."""


@dataclass(frozen=True)
class TensorEntry(StoredTensor):
    """Where one tensor lies: its bytes in ``file`` begin at ``offset``.

    ``replaces`` is the tensor of a base in whose place an adapter has this one, ``whole`` the one
    of which this is a part.
    """

    offset: int
    replaces: TensorEntry | None = field(default=None, compare=False)
    whole: TensorEntry | None = None

    def part(self, number: int, count: int) -> TensorEntry:
        """One of ``count`` parts of its rows, as ``torch.chunk`` cuts them; of one, all of it."""
        if count == 1:
            return self
        size, row_bytes = -(-self.shape[0] // count), self.nbytes // max(self.shape[0], 1)
        rows = min(size, self.shape[0] - number * size)
        place = self.offset + number * size * row_bytes
        shape, nbytes = (rows, *self.shape[1:]), rows * row_bytes
        return replace(self, shape=shape, nbytes=nbytes, offset=place, whole=self)

    @property
    def parts(self) -> tuple[TensorEntry, ...]:
        """See :class:`StoredTensor`."""
        return (self.whole or self,)

    def read(self) -> np.ndarray:
        """See :meth:`StoredTensor.read`."""
        return self._read(self.offset, self.shape)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`StoredTensor.read_rows`."""
        row_bytes = self.nbytes // max(self.shape[0], 1)
        return self._read(self.offset + start * row_bytes, (stop - start, *self.shape[1:]))

    def _read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        with read_of(CheckpointError, self.file), self.file.open("rb") as stream:
            stream.seek(offset)
            values = np.fromfile(stream, dtype=self.dtype, count=count)
        if len(values) != count:
            raise CheckpointError(
                f"{self.file}: tensor {self.key!r} ended after {len(values)} of {count} values."
            )
        return values.reshape(shape)


class TensorIndex(dict[str, TensorEntry]):
    """All tensors of the safetensors files of one folder, by key.

    Args:
        folder: Holds ``model.safetensors``, or ``model.safetensors.index.json`` and its shards. Of
            both the first is read, as in transformers; the others are of an earlier save.

    Raises:
        CheckpointError: No safetensors weights (pickled ones are refused), a missing or
            truncated shard, a damaged header, or an index that disagrees with its shards.
    """

    def __init__(self, folder: Path | str) -> None:
        index, whole = Path(folder) / INDEX, Path(folder) / WHOLE
        weight_map = _read_index(index) if index.is_file() else None
        if whole.is_file():
            self.update(read_header(whole))
        elif weight_map is not None:
            self.update(_read_shards(index, weight_map))
        elif pickled := [name for name in _PICKLES if index.with_name(name).is_file()]:
            raise CheckpointError(
                f"{index.with_name(pickled[0])}: pickled weights are not read; convert the "
                "checkpoint to safetensors. On the Hub a conversion is often a pull request: take "
                "the commit of refs/pr/N as the revision."
            )
        else:
            raise CheckpointError(f"{folder}: no weights found; expected {WHOLE} or {INDEX}.")


def _read_index(index: Path) -> dict[str, str]:
    """Key of each tensor to the name of its shard, which is a safetensors file of this folder."""
    with read_of(CheckpointError, index, "is not a safetensors index ({})"):
        found = load_json(index)
    if wrong := misfit(found, {"weight_map": {str: str}}):
        raise CheckpointError(f"{index}: is not a safetensors index ({wrong}).")
    for name in sorted(set(found["weight_map"].values())):
        if leaves_folder(name) or Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the checkpoint folder.")
        if not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: shard {name!r} is no safetensors file; pickled weights are not read."
            )
    return found["weight_map"]


def _read_shards(index: Path, weight_map: Mapping[str, str]) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    for name in sorted(set(weight_map.values())):
        entries.update(read_header(index.with_name(name)))
    absent = sorted(set(weight_map) - set(entries))
    if absent:
        raise CheckpointError(
            f"{index}: tensor {absent[0]!r} is not in its shard {weight_map[absent[0]]}."
        )
    return entries


def finite(entry: StoredTensor, values: np.ndarray) -> np.ndarray:
    """Values of a tensor, once none of them is NaN or infinite.

    Raises:
        CheckpointError: One is.
    """
    if not np.isfinite(values).all():
        raise CheckpointError(f"{entry.file}: tensor {entry.key!r} holds NaN or infinite values.")
    return values


def count(files: Iterable[Path]) -> int:
    """Parameters in safetensors files.

    Raises:
        CheckpointError: See :func:`read_header`.
    """
    return sum(math.prod(one.shape) for file in files for one in read_header(file).values())


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Entries of one safetensors file, checked against its size.

    Raises:
        CheckpointError: The file is missing, truncated, or its header is not valid.
    """
    with read_of(CheckpointError, file, "has a damaged safetensors header ({})"):
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= min(_MAX_HEADER, size - 8):
                raise CheckpointError(f"{file}: is not a safetensors file or is truncated.")
            header = parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: has a damaged safetensors header.")
    header.pop("__metadata__", None)
    entries = {key: _entry(file, key, entry, 8 + length, size) for key, entry in header.items()}
    _check_places(file, entries, 8 + length)
    return entries


def _check_places(file: Path, entries: Mapping[str, TensorEntry], start: int) -> None:
    """Refuse tensors that overlap or leave gaps, as the reference implementation does."""
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != start:
            raise CheckpointError(
                f"{file}: tensor {entry.key!r} begins at byte {entry.offset}, the one before ends "
                f"at {start}; tensors may neither overlap nor leave gaps."
            )
        start += entry.nbytes


def _entry(file: Path, key: str, entry: Any, data_start: int, size: int) -> TensorEntry:
    if misfit(entry, _ENTRY) or len(entry["data_offsets"]) != 2:
        raise CheckpointError(f"{file}: tensor {key!r} has an unreadable header.")
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{file}: tensor {key!r} is {entry['dtype']}; read are {', '.join(DTYPES)}."
        )
    if entry["dtype"] == "BF16":
        import ml_dtypes  # noqa: F401 - tells NumPy of it; a machine that only encodes has none
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    expected = math.prod(shape) * dtype.itemsize  # of any size: a product of int64 would wrap
    if begin < 0 or min(shape, default=0) < 0 or end - begin != expected:
        raise CheckpointError(
            f"{file}: tensor {key!r} claims {end - begin} bytes for shape {list(shape)}."
        )
    if data_start + end > size:
        raise CheckpointError(
            f"{file}: is truncated; tensor {key!r} ends at byte {data_start + end}, "
            f"the file has {size}."
        )
    return TensorEntry(file, key, dtype, shape, end - begin, data_start + begin)
