"""Parity: how far an exported model's embeddings are from the PyTorch reference's.

Both sides start from the same queries and documents, each with its own preprocessing. The export
runs at several batch sizes, so that padding and batch composition count too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np

from colport.base import declared, machine
from colport.base.columns import row
from colport.base.errors import PeerError, UnsupportedError
from colport.base.names import KINDS
from colport.families.base import Embedder
from colport.measure.overflow import LARGEST, Reach
from colport.scoring.maxsim import maxsim
from colport.scoring.score import top_k_overlap


@dataclass(frozen=True)
class Tolerance:
    """What parity allows."""

    max_abs_diff: declared.Positive | None = None
    """Largest difference of a component of a token embedding."""

    min_cosine: Annotated[float | None, declared.Allowed(minimum=-1, maximum=1)] = None
    """Smallest cosine between a token's embedding and the reference's."""

    def describe(self) -> str:
        """The tolerance in one line for the table."""
        limits = {"max_abs_diff<=": self.max_abs_diff, "min_cosine>=": self.min_cosine}
        return " ".join(f"{name}{most:g}" for name, most in limits.items() if most is not None)


@dataclass(frozen=True)
class Difference:
    """Differences between two sets of token embeddings.

    Attributes:
        inputs: Number of queries or documents.
        tokens: Number of token embeddings compared.
        max_abs_diff: Largest absolute difference of a component.
        cosines: ``float64 [tokens]``; cosine of each token's two embeddings.
        reason: Why they cannot be compared, or empty.
        lengths: Tokens of each input.
    """

    inputs: int
    tokens: int = 0
    max_abs_diff: float = math.nan
    cosines: np.ndarray = field(default_factory=lambda: np.empty(0))
    reason: str = ""
    lengths: Sequence[int] = ()

    @property
    def worst(self) -> list[float]:
        """Smallest cosine of each input; inputs without a token have none."""
        parts = np.split(self.cosines, np.cumsum(self.lengths)[:-1]) if self.lengths else []
        return [float(part.min(initial=1.0)) for part in parts]


def embeddings(
    encoder: Embedder, queries: Sequence[str], documents: Sequence[Any], batch_size: int = 0
) -> dict[str, list[np.ndarray]]:
    """Embeddings of each kind, as :func:`measure` compares them.

    With a batch size, inputs of any length share a batch, as they follow each other.
    """
    given = {"query": (encoder.encode_queries, queries)}
    given["document"] = encoder.encode_documents, documents
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in given}
    for kind, (encode, inputs) in given.items():
        size = batch_size or len(inputs) or 1
        for first in range(0, len(inputs), size):
            found[kind] += encode(inputs[first : first + size], batch_size or None)
    return found


def compare(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> Difference:
    """Compare embeddings of the same inputs, each ``[tokens, dim]``.

    A different number of tokens, or a value that is not finite, is a reason to fail, not a
    number.
    """
    for index, (expected, found) in enumerate(zip(reference, candidate, strict=True)):
        if expected.shape != found.shape:
            reason = f"input {index}: shape {found.shape}, reference {expected.shape}"
            return Difference(len(reference), reason=reason)
    expected = np.concatenate([np.asarray(rows, np.float64) for rows in reference])
    found = np.concatenate([np.asarray(rows, np.float64) for rows in candidate])
    if not np.isfinite(found).all():
        return Difference(len(reference), len(found), reason="values not finite")
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    products = (expected * found).sum(axis=1)
    # Two zero vectors agree; one zero vector against a unit vector does not.
    both_zero = ~expected.any(axis=1) & ~found.any(axis=1)
    cosines = np.where(both_zero, 1.0, products / np.where(norms > 0, norms, 1.0))
    return Difference(
        len(reference),
        len(found),
        float(np.abs(expected - found).max(initial=0.0)),
        cosines,
        lengths=[len(rows) for rows in reference],
    )


def measure(
    encoder: Embedder,
    queries: Sequence[str],
    documents: Sequence[Any],
    reference: Mapping[str, Sequence[np.ndarray]],
    batch_sizes: Sequence[int],
    tolerance: Tolerance,
    labels: Mapping[str, str],
    reaches: Mapping[str, Reach] | None = None,
) -> dict[str, Any]:
    """Run the export on the inputs and compare it with the reference's embeddings.

    Args:
        encoder: The exported folder.
        queries: Query texts.
        documents: Pages or passages.
        reference: Embeddings of ``query`` and ``document`` inputs, in the same order.
        batch_sizes: Batch sizes to run at; the worst difference counts.
        tolerance: What the variant may lose.
        labels: ``model``, ``variant`` and ``provider`` of the rows.
        reaches: How large the activations of each kind become where that was seen, see
            :func:`colport.measure.overflow.reaches`; a kind whose activations overflow has failed.

    Returns:
        The stage's record: ``rows``, one a kind, the cosines' ``quantiles`` at each batch size,
        each input's smallest cosine over batch sizes in ``input_min_cosine``, and ``reaches``.
    """
    runs: dict[int, Mapping[str, Sequence[np.ndarray]]] = {}
    broken: dict[int, str] = {}
    for size in batch_sizes:
        try:
            runs[size] = embeddings(encoder, queries, documents, batch_size=size)
        except PeerError as error:  # at another batch size it may still run
            broken[size] = str(error)
    overlap = 0.0 if broken else min(_overlap(reference, run) for run in runs.values())
    rows, spread, worst = [], {}, {}
    reaches = reaches or {}
    for kind in KINDS:
        differences = {
            size: compare(reference[kind], runs[size][kind])
            if size in runs
            else Difference(len(reference[kind]), reason=broken[size])
            for size in batch_sizes
        }
        figures = judged(differences, overlap, tolerance, reaches.get(kind))
        figures["batch_max_abs_diff"] = _batch_effect([run[kind] for run in runs.values()])
        rows.append(row("parity", **labels, kind=kind, **figures))
        found = [diff.worst for diff in differences.values() if diff.worst]
        worst[kind] = np.min(found, axis=0).tolist() if found else []
        spread[kind] = {size: quantiles(diff.cosines) for size, diff in differences.items()}
    return {
        "rows": rows,
        "quantiles": spread,
        "input_min_cosine": worst,
        "reaches": {kind: asdict(reach) for kind, reach in reaches.items()},
        "settings": {"batch_sizes": list(batch_sizes), "tolerance": tolerance.describe()},
        "environment": machine.describe(),
    }


def unsupported(
    labels: Mapping[str, str], limit: UnsupportedError, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """The record of a variant that this machine or provider cannot run."""
    told = {"tolerance": "", "status": limit.status, "reason": str(limit)}
    rows = [row("parity", **labels, kind=kind, **told) for kind in kinds]
    return {"rows": rows, "environment": machine.describe()}


def _batch_effect(runs: Sequence[Sequence[np.ndarray]]) -> float | None:
    """How much an embedding depends on what else is in its batch: the largest difference of a
    component between the first batch size and another; ``None`` if they cannot be compared."""
    differences = [compare(runs[0], run).max_abs_diff for run in runs[1:]]
    return max(differences) if differences and not np.isnan(differences).any() else None


def _overlap(reference: Mapping[str, Any], run: Mapping[str, Any]) -> float:
    """Of the ten best documents; 0 where embeddings cannot be compared."""
    if any(compare(reference[kind], run[kind]).reason for kind in KINDS):
        return 0.0
    return top_k_overlap(*(maxsim(side["query"], side["document"]) for side in (reference, run)))


def judged(
    differences: Mapping[int, Difference],
    overlap: float | None,
    tolerance: Tolerance,
    reach: Reach | None,
) -> dict[str, Any]:
    """The worst over batch sizes, against the tolerance and fp16's range."""
    misses = [f"batch size {size}: {d.reason}" for size, d in differences.items() if d.reason]
    first = next(iter(differences.values()))
    found: dict[str, Any] = {"inputs": first.inputs, "tokens": first.tokens}
    if not misses:
        largest = found["max_abs_diff"] = max(d.max_abs_diff for d in differences.values())
        found["mean_cosine"] = min(float(d.cosines.mean()) for d in differences.values())
        least = found["min_cosine"] = min(float(d.cosines.min()) for d in differences.values())
        if tolerance.max_abs_diff is not None and not largest <= tolerance.max_abs_diff:
            misses.append(f"max_abs_diff {largest:.3g} > {tolerance.max_abs_diff:g}")
        if tolerance.min_cosine is not None and not least >= tolerance.min_cosine:
            misses.append(f"min_cosine {least:.6f} < {tolerance.min_cosine:g}")
    if reach is not None and reach.first is not None:
        misses.append(f"{reach.first}, fp16 ends at {LARGEST:.0f}")
    return found | {
        "top10_overlap": overlap,
        "largest_activation": None if reach is None else reach.largest.value,
        "tolerance": tolerance.describe(),
        "passed": not misses,
        "status": "failed" if misses else "ok",
        "reason": "; ".join(misses),
    }


def quantiles(cosines: np.ndarray) -> dict[str, float]:
    """Of cosines, by the share of them that lies below; empty without any."""
    if not len(cosines):
        return {}
    points = (0.0, 0.01, 0.1, 0.5, 1.0)
    return dict(zip(map(str, points), np.quantile(cosines, points).tolist(), strict=True))
