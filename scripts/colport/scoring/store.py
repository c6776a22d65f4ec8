"""Token embeddings on disk: one safetensors file for a shard of queries or documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from colport.base.errors import ArtifactError
from colport.base.files import SCHEMA_VERSION, atomic_path
from colport.scoring import quantized
from colport.tensors.weights import TensorEntry, read_header

_DTYPES = ("F32", "F16")
_RESERVED = ("ids", "schema_version")


@dataclass(frozen=True, eq=False)
class EmbeddingSet(Sequence[np.ndarray]):
    """Token embeddings of queries or documents; item ``i`` is ``[tokens, dim]`` of floats.

    Floats are views; ``int8`` and ``binary`` values become float32 when they are read.

    Attributes:
        ids: One id an item, unique.
        values: All items one below the other, as :func:`colport.scoring.quantized.encode` stores
            them; ``[total_tokens, dim]`` except for ``binary``.
        offsets: ``[n + 1]`` int64; item ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
        metadata: The settings that were stored with the embeddings.
        scales: ``[total_tokens]`` float16 for ``int8``, else ``None``.
    """

    ids: tuple[str, ...]
    values: np.ndarray
    offsets: np.ndarray
    metadata: Mapping[str, str] = field(default_factory=dict)
    scales: np.ndarray | None = None

    @classmethod
    def from_arrays(cls, ids: Sequence[str], embeddings: Sequence[np.ndarray]) -> EmbeddingSet:
        """Stack one ``[tokens, dim]`` float32 or float16 array an item.

        Raises:
            ValueError: Ids are not unique or do not match the arrays in number, there are no
                arrays, or they differ in dimension or type.
            ArtifactError: An embedding holds NaN or infinity.
        """
        if len(ids) != len(embeddings) or not len(ids):
            raise ValueError(f"Found {len(ids)} ids for {len(embeddings)} embeddings.")
        if len(set(ids)) != len(ids):
            raise ValueError("Ids are not unique.")
        dtype, dim = embeddings[0].dtype, embeddings[0].shape[-1]
        if dtype not in (np.float32, np.float16):
            raise ValueError(f"Embeddings are {dtype}; allowed are float32 and float16.")
        for name, item in zip(ids, embeddings, strict=True):
            if item.ndim != 2 or item.shape[1] != dim or item.dtype != dtype:
                raise ValueError(
                    f"Embeddings of {name!r} are {item.dtype}{list(item.shape)}; "
                    f"allowed are {dtype}[tokens, {dim}]."
                )
            if not np.isfinite(item).all():
                raise ArtifactError(f"Embeddings of {name!r} hold NaN or infinity.")
        lengths = [len(item) for item in embeddings]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(tuple(ids), np.concatenate(embeddings), offsets)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, ``[n]`` int32."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self.values.shape[1] * (8 if self.values.dtype == np.uint8 else 1)

    @property
    def precision(self) -> str:
        """How the values are stored: one of :data:`colport.scoring.quantized.PRECISIONS`."""
        return "binary" if self.values.dtype == np.uint8 else self.values.dtype.name

    @property
    def bytes_per_item(self) -> float:
        """Mean bytes of an item's values and scales."""
        scales = 0 if self.scales is None else self.scales.nbytes
        return (self.values.nbytes + scales) / len(self)

    def stored_as(self, precision: str) -> EmbeddingSet:
        """The same embeddings in another precision.

        Raises:
            ValueError: These are not floats, or see :func:`colport.scoring.quantized.encode`.
        """
        if precision == self.precision:
            return self
        if self.precision not in ("float32", "float16"):
            raise ValueError(f"Embeddings are {self.precision}; only floats can be stored anew.")
        values, scales = quantized.encode(self.values, precision)
        return replace(self, values=values, scales=scales)

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Token embeddings ``begin`` to ``end`` of all items, one below the other."""
        scales = None if self.scales is None else self.scales[begin:end]
        return quantized.decode(self.values[begin:end], scales)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Item {index} of {len(self)}.")
        index %= len(self)
        return self.tokens(self.offsets[index], self.offsets[index + 1])


def write_embeddings(
    path: Path | str,
    ids: Sequence[str],
    embeddings: Sequence[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Write embeddings as one safetensors file, all or nothing.

    The file holds ``embeddings`` (:attr:`EmbeddingSet.values`) and ``lengths`` (``[n]`` int32); its
    metadata holds ``ids`` as JSON beside the given settings.

    Args:
        path: The file.
        ids: One id an item.
        embeddings: One ``[tokens, dim]`` float32 or float16 array an item.
        metadata: Settings that are stored along.

    Raises:
        ValueError: See :meth:`EmbeddingSet.from_arrays`; or ``metadata`` uses a reserved key.
        ArtifactError: An embedding holds NaN or infinity.
    """
    if clash := set(metadata) & set(_RESERVED):
        raise ValueError(f"Metadata keys {sorted(clash)} are reserved.")
    items = EmbeddingSet.from_arrays(ids, embeddings)
    tensors = {"embeddings": items.values, "lengths": items.lengths}
    header = {**metadata, "ids": json.dumps(list(ids)), "schema_version": str(SCHEMA_VERSION)}
    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, header)
        temporary.chmod(mode)  # its own is for the user alone


def read_embeddings(path: Path | str) -> EmbeddingSet:
    """Open a file of :func:`write_embeddings`; the values are memory-mapped, not read.

    Raises:
        ArtifactError: The file is missing or damaged, or its parts contradict each other.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="np") as tensors:
            metadata = dict(tensors.metadata() or {})
            lengths = tensors.get_tensor("lengths")
            if (dtype := tensors.get_slice("embeddings").get_dtype()) not in _DTYPES:
                raise ValueError(f"embeddings is {dtype}; allowed are {', '.join(_DTYPES)}")
        values = _mapped(read_header(path)["embeddings"])
        ids = json.loads(metadata["ids"])
    except OSError as error:
        raise ArtifactError(
            f"{path}: embeddings cannot be read ({error.strerror or error})."
        ) from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: is not an embeddings file ({error}).") from error
    version = metadata.get("schema_version")
    if version != str(SCHEMA_VERSION):
        raise ArtifactError(
            f"{path}: schema_version is {version!r}; "
            f"this version of ColPort reads {SCHEMA_VERSION}."
        )
    tokens = int(lengths.sum())
    if values.ndim != 2 or lengths.ndim != 1 or tokens != len(values) or len(ids) != len(lengths):
        raise ArtifactError(
            f"{path}: {len(ids)} ids, {lengths.size} lengths of {tokens} tokens in all and "
            f"embeddings of shape {list(values.shape)} do not fit together."
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    settings = {key: value for key, value in metadata.items() if key not in _RESERVED}
    return EmbeddingSet(tuple(ids), values, offsets, settings)


def _mapped(entry: TensorEntry) -> np.ndarray:
    """The tensor, memory-mapped."""
    if 0 in entry.shape:
        return np.zeros(entry.shape, entry.dtype)
    return np.memmap(entry.file, entry.dtype, mode="r", offset=entry.offset, shape=entry.shape)
