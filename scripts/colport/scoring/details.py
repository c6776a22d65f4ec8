"""Tables behind ``retrieval.csv``: every metric with its interval, every query, mteb's scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from colport.base import machine
from colport.base.columns import TABLES, row
from colport.base.names import FULL, REFERENCE_VARIANT
from colport.scoring.metrics import METRIC_NAMES

PLACE = ("model", "variant", "provider", "dataset")


def build(records: Iterable[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """``retrieval_intervals`` and ``retrieval_queries``.

    Args:
        records: Retrieval records, of models and of controls. Those that are unsupported have no
            rows here; a dataset without judgements has no intervals, and its queries have rankings.
    """
    rows: dict[str, list[dict[str, Any]]] = {"retrieval_intervals": [], "retrieval_queries": []}
    for record in records:
        place = {key: record["rows"][0][key] for key in PLACE}
        for metric, found in record["statistics"].items():
            if found["mean"] is not None:
                given = {**place, "metric": metric, **found}
                rows["retrieval_intervals"].append(row("retrieval_intervals", **given))
        for query, best in record["rankings"].items():
            values = {metric: record["per_query"][metric].get(query) for metric in METRIC_NAMES}
            given = {**place, "query": query, **values}
            given["top10"] = json.dumps(best, ensure_ascii=False)
            rows["retrieval_queries"].append(row("retrieval_queries", **given))
    return {name: pd.DataFrame(found, columns=TABLES[name].all) for name, found in rows.items()}


class Pair(NamedTuple):
    """A run on a dataset and PyTorch's, both with ``per_query`` and ``rankings``."""

    run: Mapping[str, Any]
    reference: Mapping[str, Any]
    documents: int
    settings: Mapping[str, Any]


def pairs(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Pair]:
    """What the rows of ``retrieval.csv`` were compared on, by place and form of embeddings."""
    references = {
        (first["model"], first["dataset"]): record
        for record in records
        if (first := record["rows"][0])["variant"] == REFERENCE_VARIANT
    }
    found = {}
    for record in records:
        for number, line in enumerate(record["rows"]):
            form = line.get("embeddings") or FULL
            run = record["forms"].get(form) if number else record
            reference = references.get((line["model"], line["dataset"]))
            if line["status"] == "ok" and reference and run is not reference:
                key = (*(line[name] for name in PLACE), form)
                found[key] = Pair(run, reference, line["documents"], record.get("settings", {}))
    return found


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
    figures = {"ndcg_at_5": own, "mteb_ndcg_at_5": score, "status": status, "reason": reason}
    return {"rows": [row("mteb", **labels, **figures)], "environment": machine.describe()}
