"""Which variant of a model to ship, and why not the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from colport.base.names import AGREEMENT, REFERENCE_VARIANT, is_peer
from colport.scoring.statistics import SIGNIFICANCE

ACCEPTED_LOSS = 0.01
"""NDCG@5 that a variant may lose and still be recommended, whatever the p-value."""

NOISE_LOSS = 0.02
"""NDCG@5 that a variant may lose and still be recommended if the loss is within noise."""

MIN_AGREEMENT = 0.9
"""Share of PyTorch's best documents that a variant must be known to keep without judgements."""

SAME_SPEED = 0.05
"""Share by which a document may take longer than with the fastest and count as equally fast."""

TIED_SPEED = 0.20
"""The same where the difference lies within the range of the speed-ups of single rounds."""

SAME_QUALITY = 0.002
"""NDCG@5 within which two variants are equally good."""

SMALL_LOSS = 0.01
"""Share of PyTorch's NDCG@5 that the smallest variant may lose."""

FASTEST, SMALLEST, BEST = "fastest", "smallest", "best quality"
_CHECKED = {"caption": "captions", "document": "both queries and documents"}
NEEDS = (FASTEST, SMALLEST, BEST)
CLOSEST = "closest to PyTorch"
"""In place of the best quality where no dataset has judgements."""


def recommend(rows: Sequence[dict[str, Any]], min_agreement: float = MIN_AGREEMENT) -> None:
    """Fill in ``verdict``, ``recommended`` and ``best_for`` of one model's rows, in place.

    The rule. A variant on a provider qualifies if

    1. export, parity, retrieval and latency are ``ok`` for it, and all of them were measured;
    2. parity passed, for queries and for documents, or for captions;
    3. its mean NDCG@5 lies at most 1 point (:data:`ACCEPTED_LOSS`) below PyTorch's, or at most
       2 points (:data:`NOISE_LOSS`) and the difference is not significant (``p_value`` above
       :data:`SIGNIFICANCE`). Where there are no judgements its rankings agree with PyTorch's, by
       the lower end of the interval, in ``min_agreement`` of the best documents instead; with
       judgements for some datasets both must hold;
    4. no other measured row of the model that passed parity is at once faster on documents,
       smaller and better in NDCG@5, or in agreement, or in one and not worse in the other.
       (PyTorch is not asked: a checkpoint has no folder's size.)

    Of those that qualify, there is one for each need:

    - *fastest*: of those as fast as the fastest on documents the best; of those equally good the
      fastest, then the smallest. Speed goes by ``document_speedup``, or between providers with
      another reference by ``document_cost_ms`` (:func:`colport.tables.beside_reference`), and
      without either by ``document_p50_ms``. As fast is up to 5% slower (:data:`SAME_SPEED`), or up
      to 20% slower (:data:`TIED_SPEED`) with a speed-up that the fastest one's had, too, in some
      round;
    - *smallest*: the lowest ``size_mb`` of those that keep 99% of PyTorch's NDCG@5
      (:data:`SMALL_LOSS`); at a tie the better, then the faster one;
    - *best quality*: the best; of those equally good the fastest, then the smallest.

    Without any judgements agreement stands in for quality: the smallest is that of all that
    qualify, and the best is called :data:`CLOSEST`.

    In all of them quality is the difference to PyTorch, in which a gain that is not significant
    counts as none, and differences up to 0.2 points (:data:`SAME_QUALITY`) as equal. The fastest
    one is ``recommended``. PyTorch itself never is. If none qualifies, none is. A peer's variant
    neither qualifies nor stands in another's way: it is shown to be compared.

    Args:
        rows: Rows of ``summary.csv`` as dicts; what is missing is NaN, an unchecked
            ``parity_passed`` is ``None``. A ``verdict`` that is already there stands. ``unit`` is
            ``caption`` for a captioner, whose agreement is the share of captions that are
            PyTorch's.
        min_agreement: From 0 to 1.
    """
    qualified = []
    ours = [row for row in rows if not is_peer(row["variant"])]
    for row in rows:
        row["best_for"] = ""
        row["verdict"] = row["verdict"] or _objection(row, ours, min_agreement)
        if not row["verdict"]:
            qualified.append(row)
    if not qualified:
        return
    least = min(qualified, key=_milliseconds)
    fastest = _best([row for row in qualified if _as_fast(row, least)])
    best = BEST if _is_judged(qualified[0]) else CLOSEST
    chosen = {FASTEST: fastest, SMALLEST: _smallest(qualified), best: _best(qualified)}
    for row in qualified:
        row["best_for"] = ", ".join(need for need, found in chosen.items() if found is row)
        row["verdict"] = row["best_for"] or _verdict(row, fastest)
    fastest["recommended"] = True


def _smallest(qualified: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    kept = [
        row
        for row in qualified
        if not _is_judged(row)
        or row["ndcg_at_5"] >= (1 - SMALL_LOSS) * (row["ndcg_at_5"] - row["ndcg_at_5_delta"])
    ]
    return min(
        kept, key=lambda row: (row["size_mb"], -_quality(row), _milliseconds(row)), default=None
    )


def _best(qualified: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = max(map(_quality, qualified))
    return _cheapest(row for row in qualified if _quality(row) >= best - SAME_QUALITY)


def _cheapest(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return min(rows, key=lambda row: (_milliseconds(row), row["size_mb"]))


def _milliseconds(row: Mapping[str, Any]) -> float:
    """What a document takes by the speed-up that is told of it; as measured without one."""
    cost = row.get("document_cost_ms", math.nan)
    return row["document_p50_ms"] if math.isnan(cost) else cost


def _as_fast(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    own, least = _milliseconds(row), _milliseconds(first)
    # A missing bound is NaN, which no speed-up reaches.
    within = row["document_speedup"] >= first.get("document_speedup_low", math.nan)
    return own <= (1 + SAME_SPEED) * least or (own <= (1 + TIED_SPEED) * least and within)


def _is_judged(row: Mapping[str, Any]) -> bool:
    return not math.isnan(row["ndcg_at_5_delta"])


def _quality(row: Mapping[str, Any]) -> float:
    """Difference to PyTorch; a gain within noise is none. Without judgements the agreement."""
    if not _is_judged(row):
        return row["agreement"]
    delta = row["ndcg_at_5_delta"]
    return delta if row["p_value"] <= SIGNIFICANCE else min(delta, 0.0)


def _verdict(row: Mapping[str, Any], fastest: Mapping[str, Any]) -> str:
    ratio = _milliseconds(row) / _milliseconds(fastest)
    name = f"{fastest['variant']} on {fastest['provider']}"
    if ratio < 1:
        loss = 100 * (_quality(fastest) - _quality(row))
        worse = "NDCG@5 worse" if _is_judged(row) else "agreement with PyTorch behind"
        return f"qualifies; about as fast as {name} and {loss:.1f} points of {worse}"
    longer = "" if ratio < 1.005 else f"{ratio:.3g} times "
    return f"qualifies; a {row.get('unit', 'document')} takes {longer}as long as with {name}"


def _objection(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], least: float) -> str:
    delta, p_value = row["ndcg_at_5_delta"], row["p_value"]
    agreement, low, high = (row.get(name, math.nan) for name in AGREEMENT)
    if row["variant"] == REFERENCE_VARIANT:
        return "reference"
    if is_peer(row["variant"]):
        return "peer"
    if row["parity_passed"] is None:
        return f"parity was not checked for {_CHECKED[row.get('unit', 'document')]}"
    if not row["parity_passed"]:
        return "parity failed"
    if math.isnan(delta) and math.isnan(low):
        return "quality was not measured against PyTorch on every dataset"
    # The small slack keeps a loss of exactly one point within one point.
    if delta < -(NOISE_LOSS if p_value > SIGNIFICANCE else ACCEPTED_LOSS) - 1e-9:
        known = "" if math.isnan(p_value) else f" (p = {p_value:.3g})"
        points = f"{-100 * delta:.1f} points"
        if p_value > SIGNIFICANCE:
            beyond = f"within noise, but by more than {100 * NOISE_LOSS:g} points"
            return f"NDCG@5 is {points} lower{known}: {beyond}"
        return f"loses {points} of NDCG@5{known}"
    if low < least:  # missing where all datasets have judgements
        if math.isnan(agreement):
            return "no judgements, and of one document no ranking to compare"
        known = f"{agreement:.3f} ({math.floor(1000 * low) / 1000:.3f} to {high:.3f})"
        return f"agreement with PyTorch is {known}, not known to reach {least:g}"
    if math.isnan(row["document_p50_ms"]):
        return f"{row.get('unit', 'document')} latency was not measured"
    if math.isnan(row["size_mb"]):
        return "the size of its folder is not recorded"
    if better := [other for other in rows if other["parity_passed"] and _dominates(other, row)]:
        other = _cheapest(better)
        gain = "better than" if _is_judged(row) else "closer to PyTorch than"
        return f"slower, larger and no {gain} {other['variant']} on {other['provider']}"
    return ""


def _dominates(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    measures = ("ndcg_at_5", AGREEMENT[0])
    gains = [
        other[name] - row[name] for name in measures if not math.isnan(row.get(name, math.nan))
    ]
    return (
        _milliseconds(other) < _milliseconds(row)
        and other["size_mb"] < row["size_mb"]
        and all(gain >= 0 for gain in gains)
        and any(gain > 0 for gain in gains)
    )
