"""Tables behind ``retrieval.csv``: every metric with its interval, every query, mteb's scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from colport.base import machine
from colport.scoring.metrics import METRIC_NAMES

PLACE = ("model", "variant", "provider", "dataset")
FIGURES = ("mean", "low", "high", "delta", "p_value", "delta_low", "delta_high")

INTERVAL_COLUMNS = (*PLACE, "metric", *FIGURES)
"""Columns of ``retrieval_intervals.csv``: ``low`` to ``high`` is the bootstrap interval,
``delta_low`` to ``delta_high`` that of the paired difference."""

QUERY_COLUMNS = (*PLACE, "query", *METRIC_NAMES, "top10")
"""Columns of ``retrieval_queries.csv``: ``top10`` are the best document ids, as a JSON list."""

MTEB_COLUMNS = (*PLACE, "ndcg_at_5", "mteb_ndcg_at_5", "status", "reason")
"""Columns of ``mteb.csv``: our NDCG@5 beside mteb's, which rounds to five decimals."""


def build(records: Iterable[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """``retrieval_intervals`` and ``retrieval_queries``.

    Args:
        records: Retrieval records, of models and of controls. Those that are unsupported have no
            rows here; a dataset without judgements has no intervals, and its queries have rankings.
    """
    intervals: list[tuple[Any, ...]] = []
    queries: list[tuple[Any, ...]] = []
    for record in records:
        place = tuple(record["rows"][0][key] for key in PLACE)
        for metric, found in record["statistics"].items():
            if found["mean"] is not None:
                intervals.append((*place, metric, *(found[key] for key in FIGURES)))
        for query, best in record["rankings"].items():
            values = (record["per_query"][metric].get(query) for metric in METRIC_NAMES)
            queries.append((*place, query, *values, json.dumps(best, ensure_ascii=False)))
    return {
        "retrieval_intervals": pd.DataFrame(intervals, columns=INTERVAL_COLUMNS),
        "retrieval_queries": pd.DataFrame(queries, columns=QUERY_COLUMNS),
    }


def mteb_record(
    labels: Mapping[str, str], own: float | None, score: float | None, reason: str = ""
) -> dict[str, Any]:
    """The payload of one job that ran mteb, with its row of ``mteb.csv``.

    Args:
        labels: ``model``, ``variant``, ``provider`` and ``dataset``.
        own: Our NDCG@5.
        score: mteb's; ``None`` if a known limit prevented it.
        reason: That limit.
    """
    status = "ok" if score is not None else "unsupported"
    values = (*(labels[key] for key in PLACE), own, score, status, reason)
    row = dict(zip(MTEB_COLUMNS, values, strict=True))
    return {"rows": [row], "environment": machine.describe()}


def mteb_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``mteb.csv`` from the records of :func:`mteb_record`."""
    return pd.DataFrame([row for record in records for row in record["rows"]], columns=MTEB_COLUMNS)
