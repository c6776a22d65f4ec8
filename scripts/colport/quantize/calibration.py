"""Calibration: the base runs on real inputs, and what its products read is measured.

Inputs run one at a time, so that nothing is measured on padding. Some groups are measured in each
run of all inputs, so that only their Gram matrices are in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from scipy.linalg import blas

from colport.base.library import onnxruntime
from colport.families.base import Batch, Document, Runtime
from colport.providers import ProviderSettings
from colport.providers.session import open_session
from colport.quantize.rounding import Curvature
from colport.quantize.settings import Calibration
from colport.quantize.sites import Group, copied
from colport.tensors.external_data import Layout, write
from colport.tensors.streaming import row_ranges

SAMPLE_ROWS = 256
"""Activation rows that are kept of each group."""

_PART_BYTES, _PART_OF_WEIGHTS = 2**28, 0.5
"""Activations and Gram matrices that are in memory at once: so many bytes, and as much as half of
the weights where these are large. Each part is another run of all inputs."""
_TYPICAL_TOKENS = 1024


@dataclass(frozen=True)
class CalibrationSet:
    """Queries and documents to calibrate on.

    Attributes:
        queries: Texts.
        documents: Pages or passages.
        dataset: Its name.
    """

    queries: Sequence[str]
    documents: Sequence[Document]
    dataset: str

    @classmethod
    def choose(cls, dataset: Any, settings: Calibration) -> CalibrationSet:
        """Some of a dataset's second half: parity compares the first ones.

        Args:
            dataset: A :class:`~colport.data.datasets.RetrievalDataset`.
            settings: How many, and the seed of the choice; all of them if there are fewer.
        """
        rng = np.random.default_rng(settings.seed)

        def some(items: Sequence[Any]) -> list[Any]:
            half = range(len(items) // 2, len(items))
            places = rng.choice(half, min(settings.inputs, len(half)), replace=False)
            return [items[int(place)] for place in sorted(places)]

        return cls(some(dataset.queries), some(dataset.documents), dataset.name)

    def batches(self, runtime: Runtime, size: int) -> Iterator[Batch]:
        """Graph inputs of the queries and of the documents."""
        for items, prepare in (
            (self.queries, runtime.query_batch),
            (self.documents, runtime.document_batch),
        ):
            for start in range(0, len(items), size):
                yield prepare(items[start : start + size])


@dataclass(frozen=True)
class Statistics:
    """What the products of one group read.

    Attributes:
        low: ``float32 [inputs]``; smallest value of each channel.
        high: ``float32 [inputs]``; largest value.
        mean: ``float32 [inputs]``.
        rows: ``float32 [rows, inputs]``; some of the activations.
        gram: ``float32 [inputs, inputs]``; mean product of each two channels, if it was asked for.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    rows: np.ndarray
    gram: np.ndarray | None = None

    def curvature(self, shift: np.ndarray | float, factors: np.ndarray | float) -> Curvature:
        """Of ``(x - shift) / factors``, where ``x`` are the activations.

        Args:
            shift: Taken from the activations.
            factors: What is left is divided by them.
        """
        width = len(self.mean)
        shift, factors = (np.broadcast_to(np.float32(part), width) for part in (shift, factors))
        gram = self.gram.T / factors  # it is its own transpose, and so in C's order
        gram /= factors[:, None]
        if shift.any():
            gram += np.outer((shift - self.mean) / factors, shift / factors)
            gram -= np.outer(shift / factors, self.mean / factors)
        return Curvature.of(gram)


def measure(
    models: Mapping[str, ir.Model],
    groups: Sequence[Group],
    batches: Sequence[Batch],
    scratch: Path,
    *,
    with_gram: bool,
) -> Iterator[tuple[Group, Statistics]]:
    """Statistics of each group of products.

    Args:
        models: Graphs of the base.
        groups: Products of these graphs.
        batches: Inputs.
        scratch: A folder, for the graphs while they run.
        with_gram: Whether Gram matrices are needed.
    """
    only = onnxruntime.RunOptions()
    only.only_execute_path_to_fetches = True
    copies, tapped = copied(models, groups)
    taps = {name: _tap(model.graph, tapped) for name, model in copies.items()}
    sessions = open_sessions(copies, scratch / "base")
    rng = np.random.default_rng(0)
    for part in _parts(groups, with_gram):
        collected = {group.name: _Collected(group.width, with_gram, rng) for group in part}
        for batch in batches:
            wanted = {tap: name for tap, name in taps[batch.graph].items() if name in collected}
            values = sessions[batch.graph].run(list(wanted), batch.feeds, only) if wanted else []
            for name, activations in zip(wanted.values(), values, strict=True):
                collected[name].add(activations)
        for group in part:
            yield group, collected.pop(group.name).statistics()
    del sessions
    shutil.rmtree(scratch / "base")


def open_sessions(
    models: Mapping[str, ir.Model],
    folder: Path,
    order: onnxruntime.ExecutionOrder | None = None,
) -> dict[str, onnxruntime.InferenceSession]:
    """Write graphs with their weights to a folder, and load them on the CPU.

    Weights are not repacked at load: a large model would be in memory twice.
    """
    folder.mkdir()
    write(models, folder, Layout())
    on, chosen = ProviderSettings.of("cpu"), {"share_weights": True, "order": order}
    return {name: open_session(folder / f"{name}.onnx", on, **chosen) for name in models}


class _Collected:
    """One group's statistics while they are collected."""

    def __init__(self, width: int, with_gram: bool, rng: np.random.Generator) -> None:
        self.low = np.full(width, np.inf, np.float32)
        self.high = np.full(width, -np.inf, np.float32)
        self.total = np.zeros(width, np.float64)
        self.gram = np.zeros((width, width), np.float32, order="F") if with_gram else None
        self.rows = np.empty((0, width), np.float32)
        self._seen, self._keys, self._rng = 0, np.empty(0), rng

    def add(self, activations: np.ndarray) -> None:
        """Take in ``[..., inputs]``."""
        rows = activations.reshape(-1, activations.shape[-1])
        np.minimum(self.low, rows.min(axis=0), out=self.low)
        np.maximum(self.high, rows.max(axis=0), out=self.high)
        self.total += rows.sum(axis=0)
        self._seen += len(rows)
        if self.gram is not None:
            # In place, and only above the diagonal: 16,384 channels have a matrix of 1 GB.
            self.gram = blas.ssyrk(1.0, rows.T, beta=1.0, c=self.gram, overwrite_c=1)
        # A uniform sample of all rows: those with the smallest random keys so far.
        keys = np.concatenate([self._keys, self._rng.random(len(rows))])
        kept = np.argsort(keys)[:SAMPLE_ROWS]
        self._keys, self.rows = keys[kept], np.concatenate([self.rows, rows])[kept]

    def statistics(self) -> Statistics:
        """What was collected."""
        mean = (self.total / self._seen).astype(np.float32)
        if self.gram is not None:
            self.gram /= self._seen
            for start, stop in row_ranges(len(mean), 4 * len(mean)):
                above = np.triu(self.gram[start:stop, start:], 1)
                self.gram[start:, start:stop] += above.T
        return Statistics(self.low, self.high, mean, self.rows, self.gram)


def _tap(graph: ir.Graph, groups: Sequence[Group]) -> dict[str, str]:
    """Make every activation that the groups read an output; output name to group name."""
    taps: dict[str, str] = {}
    for group in groups:
        for activation in dict.fromkeys(s.activation for s in group.sites if s.graph is graph):
            output = ir.Value(name=f"tap.{len(taps)}", type=ir.TensorType(ir.DataType.FLOAT))
            graph.append(ir.Node("", "Identity", [activation], outputs=[output]))
            graph.outputs.append(output)
            taps[output.name] = group.name
    return taps


def _parts(groups: Sequence[Group], with_gram: bool) -> Iterator[list[Group]]:
    """Groups whose activations are put out together."""
    part, size = [], 0
    most = max(_PART_BYTES, _PART_OF_WEIGHTS * 4 * sum(group.parameters for group in groups))
    for group in groups:
        nbytes = 4 * group.width * (_TYPICAL_TOKENS + with_gram * group.width)
        if part and size + nbytes > most:
            yield part
            part, size = [], 0
        part.append(group)
        size += nbytes
    yield part
