"""Which variant of a model to ship, and why not the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REFERENCE_VARIANT = "pytorch"

SIGNIFICANCE = 0.05
"""A difference with a larger p-value is within noise."""

ACCEPTED_LOSS = 0.01
"""NDCG@5 that a variant may lose and still be recommended, whatever the p-value."""

NOISE_LOSS = 0.02
"""NDCG@5 that a variant may lose and still be recommended if the loss is within noise."""


def recommend(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in ``verdict`` and ``recommended`` of one model's summary rows, in place.

    The rule. For each model, at most one variant on one provider is recommended. It qualifies if

    1. export, parity, retrieval and latency are ``ok`` for it, and all of them were measured;
    2. parity passed, for queries and for documents;
    3. its mean NDCG@5 lies at most 1 point (:data:`ACCEPTED_LOSS`) below PyTorch's, or at most
       2 points (:data:`NOISE_LOSS`) and the difference is not significant (``p_value`` above
       :data:`SIGNIFICANCE`);
    4. no other measured row of the model that passed parity, nor PyTorch, is at once faster on
       documents, smaller and better in NDCG@5.

    Of those that qualify, the one with the lowest ``document_p50_ms`` is recommended; at a tie
    the smaller one, then the better one. PyTorch itself never is. If none qualifies, none is.

    Args:
        rows: Rows of ``summary.csv`` as dicts; what is missing is NaN, an unchecked
            ``parity_passed`` is ``None``. A ``verdict`` that is already there stands.
    """
    qualified = []
    for row in rows:
        row["verdict"] = row["verdict"] or _objection(row, rows)
        if not row["verdict"]:
            qualified.append(row)
    if not qualified:
        return
    best = min(
        qualified,
        key=lambda row: (
            row["document_p50_ms"],
            row["size_mb"],
            -row["ndcg_at_5_delta"],
        ),
    )
    for row in qualified:
        ratio = row["document_p50_ms"] / best["document_p50_ms"]
        row["verdict"] = (
            f"qualifies; a document takes {ratio:.3g} times as long as with {best['variant']} "
            f"on {best['provider']}"
        )
    best["recommended"], best["verdict"] = True, "recommended"


def _objection(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    delta, p_value = row["ndcg_at_5_delta"], row["p_value"]
    if row["variant"] == REFERENCE_VARIANT:
        return "reference"
    if row["parity_passed"] is None:
        return "parity was not checked for both queries and documents"
    if not row["parity_passed"]:
        return "parity failed"
    if math.isnan(delta):
        return "quality was not measured against PyTorch on every dataset"
    # The small slack keeps a loss of exactly one point within one point.
    if delta < -(NOISE_LOSS if p_value > SIGNIFICANCE else ACCEPTED_LOSS) - 1e-9:
        known = "" if math.isnan(p_value) else f" (p = {p_value:.2g})"
        points = f"{-100 * delta:.1f} points"
        if p_value > SIGNIFICANCE:
            beyond = f"within noise, but by more than {100 * NOISE_LOSS:g} points"
            return f"NDCG@5 is {points} lower{known}: {beyond}"
        return f"loses {points} of NDCG@5{known}"
    if math.isnan(row["document_p50_ms"]):
        return "document latency was not measured"
    if math.isnan(row["size_mb"]):
        return "the size of its folder is not recorded"
    for other in rows:
        comparable = other["parity_passed"] or other["variant"] == REFERENCE_VARIANT
        if comparable and _dominates(other, row):
            return f"slower, larger and no better than {other['variant']} on {other['provider']}"
    return ""


def _dominates(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return (
        other["document_p50_ms"] < row["document_p50_ms"]
        and other["size_mb"] < row["size_mb"]
        and other["ndcg_at_5"] > row["ndcg_at_5"]
    )
