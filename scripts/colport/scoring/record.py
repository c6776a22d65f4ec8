"""The record of one retrieval job: its rows, how sure they are, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colport.base import machine
from colport.base.columns import row
from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.names import AGREEMENT, FULL, REFERENCE_VARIANT
from colport.scoring import statistics as inference
from colport.scoring.metrics import METRIC_NAMES
from colport.scoring.score import EVALUATION_DEPTH, HEADLINE, OVERLAP, RANKING_DEPTH, RunScores

Rankings = Mapping[str, Sequence[str]]

NO_JUDGEMENTS = "no judgements"
"""Reason of a row that is ``ok`` and has rankings, but nothing to compute metrics from."""

_OF_MEAN = ("low", "high", "delta", "delta_low", "delta_high")


def retrieval_record(
    labels: Mapping[str, str],
    run: RunScores,
    reference_run: RunScores | None,
    settings: Mapping[str, Any],
    forms: Mapping[str, RunScores | str] | None = None,
) -> dict[str, Any]:
    """The JSON payload of one retrieval job, with its rows of ``retrieval.csv``.

    Args:
        labels: Names of the ``model``, of the ``variant`` (``pytorch`` for the reference), of the
            ``provider`` (``torch-cpu`` or ``torch-cuda`` for PyTorch) and of the ``dataset``.
        run: The scores of this job, on full embeddings.
        reference_run: The PyTorch scores on the same dataset; ``None`` if this is that reference,
            whose delta is 0.0 and whose p-value is null. Without a reference both are null.
        settings: Stored as given; ``confidence``, ``resamples`` and ``seed`` steer the statistics
            of metrics.
        forms: Scores of smaller forms by their names, or why there are none. They, too, are
            compared with PyTorch's full embeddings.

    Returns:
        ``rows``, that of full embeddings first; ``statistics`` (metric name to its ``mean``,
        interval ``low`` to ``high``, ``delta`` with its own, and ``p_value``), ``per_query`` and
        ``rankings`` as in :class:`RunScores`; ``forms`` (the same three of each form);
        ``environment`` and ``settings``. Without judgements every figure but agreement, overlap
        and size is null.

    Raises:
        ArtifactError: The reference was scored on other queries or documents.
    """
    used = {"evaluation_depth": EVALUATION_DEPTH, **inference.SETTINGS, **settings}
    is_reference = labels["variant"] == REFERENCE_VARIANT
    figures, result = _result(run, reference_run, used, is_reference=is_reference)
    form = None if run.bytes_per_document is None else FULL
    rows, results = [row("retrieval", **labels, **figures, embeddings=form)], {}
    for name, found in (forms or {}).items():
        if isinstance(found, str):
            figures = {"status": "unsupported", "reason": found}
        else:
            figures, results[name] = _result(found, run if is_reference else reference_run, used)
        rows.append(row("retrieval", **labels, **figures, embeddings=name))
    return {
        "rows": rows,
        **result,
        "forms": results,
        "environment": machine.describe(),
        "settings": used,
    }


def unsupported_record(
    labels: Mapping[str, str], limit: UnsupportedError, table: str = "retrieval"
) -> dict[str, Any]:
    """The payload of a job that met a known limit: the same columns, null, and the reason."""
    return {
        "rows": [row(table, **labels, status=limit.status, reason=str(limit))],
        "statistics": {},
        "per_query": {name: {} for name in METRIC_NAMES},
        "rankings": {},
        "captions": {},
        "forms": {},
        "environment": machine.describe(),
        "settings": {},
    }


def agreement(*compared: tuple[Rankings, Rankings, int]) -> tuple[float | None, float, float]:
    """How far rankings agree: the share of the best documents that is the same, over queries.

    The best are ten, or half of fewer than 20 documents: of more than half, any two rankings share
    some.

    Args:
        compared: Rankings of a dataset, the reference's, and how many documents were ranked; of
            several datasets each counts alike.

    Returns:
        :data:`~colport.base.names.AGREEMENT`, with a 95% interval; ``None``, 0 and 1 where a
        dataset has one document, which ranks alike whatever its score.
    """
    depths = [min(RANKING_DEPTH, documents // 2) for *_, documents in compared]
    if not all(depths):
        return None, 0.0, 1.0
    shares = [
        _kept(own, others, depth) for (own, others, _), depth in zip(compared, depths, strict=True)
    ]
    mean = float(np.mean([np.mean(values) for values in shares]))
    return mean, *inference.share_interval(shares, depths)


def difference(
    own: inference.Values,
    others: inference.Values,
    settings: Mapping[str, Any],
    datasets: Sequence[int] = (),
) -> tuple[float, float | None, float | None]:
    """p-value of the difference between two means over the same queries, and its interval.

    Args:
        own: A value a query, or what its metric is of the whole.
        others: The reference's.
        settings: Of the record.
        datasets: Queries of each dataset, if there are several.

    Returns:
        The bounds are ``None`` where so few queries leave nothing to reject.
    """
    given = {"resamples": settings["resamples"], "seed": settings["seed"], "datasets": datasets}
    p_value, *ends = inference.paired_difference(own, others, settings["confidence"], **given)
    low, high = ends if np.isfinite(ends).all() else (None, None)
    return p_value, low, high


def _result(
    run: RunScores,
    reference: RunScores | None,
    settings: Mapping[str, Any],
    *,
    is_reference: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a run's row, and what they were computed from."""
    overlap: dict[str, float | None] = {OVERLAP: 1.0} if is_reference else {}
    if reference is not None:
        _check_comparable(run, reference)
        rankings = run.rankings, reference.rankings
        overlap = {OVERLAP: float(np.mean(_kept(*rankings, RANKING_DEPTH)))}
        overlap |= zip(AGREEMENT, agreement((*rankings, run.documents)), strict=True)
    statistics = {
        name: estimated(
            [*values.values()],
            reference and [reference.per_query[name][query] for query in values],
            is_reference,
            settings,
        )
        for name, values in run.per_query.items()
    }
    judged = len(run.per_query[HEADLINE])
    headline = statistics[HEADLINE]
    figures = {
        "reason": "" if judged else NO_JUDGEMENTS,
        **{name: statistics[name]["mean"] for name in METRIC_NAMES},
        "queries": judged or len(run.rankings),
        "documents": run.documents,
        **{f"{HEADLINE}_{key}": headline[key] for key in _OF_MEAN},
        "p_value": headline["p_value"],
        **overlap,
        "bytes_per_document": run.bytes_per_document,
    }
    return figures, {"statistics": statistics, "per_query": run.per_query, "rankings": run.rankings}


def estimated(
    own: inference.Values,
    others: inference.Values | None,
    is_reference: bool,
    settings: Mapping[str, Any],
) -> dict[str, float | None]:
    """One metric, how sure it is, and its difference to PyTorch.

    Args:
        own: Of the queries or pictures; without any, all that is found is ``None``.
        others: PyTorch's, in the same order.
        is_reference: Whether these are PyTorch's own.
        settings: Of the record.
    """
    found: dict[str, float | None] = dict.fromkeys(("mean", *_OF_MEAN, "p_value"))
    if not len(own):
        return found
    sampling = {"resamples": settings["resamples"], "seed": settings["seed"]}
    low, high = inference.bootstrap_interval(own, settings["confidence"], **sampling)
    found |= {"mean": inference.estimate(own), "low": low, "high": high}
    if is_reference:
        found["delta"] = 0.0
    elif others is not None:
        found["delta"] = inference.estimate(own) - inference.estimate(others)
        names = ("p_value", "delta_low", "delta_high")
        found |= zip(names, difference(own, others, settings), strict=True)
    return found


def _check_comparable(run: RunScores, reference: RunScores) -> None:
    """Refuse a reference that ranked other documents or judged other queries."""
    own, others = run.per_query[HEADLINE], reference.per_query[HEADLINE]
    same = own.keys() == others.keys() and run.rankings.keys() == reference.rankings.keys()
    if not same or run.documents != reference.documents:
        raise ArtifactError(
            f"The reference has {len(others)} judged of {len(reference.rankings)} queries on "
            f"{reference.documents} documents and the run {len(own)} of {len(run.rankings)} on "
            f"{run.documents}; they must be the same to be compared."
        )


def _kept(rankings: Rankings, others: Rankings, depth: int) -> list[float]:
    """Share of each query's best documents that are also among the other ranking's."""
    best = ((own[:depth], others[query][:depth]) for query, own in rankings.items())
    return [len({*own} & {*other}) / len(own) for own, other in best]
