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

_NAMES = ("retrieval_intervals", "retrieval_queries", "caption_intervals", "caption_items")
_Rows = dict[str, list[dict[str, Any]]]


def build(
    retrieval: Iterable[Mapping[str, Any]], captions: Iterable[Mapping[str, Any]] = ()
) -> dict[str, pd.DataFrame]:
    """Every metric with its interval, and what queries and pictures have: four tables.

    Args:
        retrieval: Retrieval records, of models and of controls. Those that are unsupported have no
            rows here; a dataset without judgements has no intervals, and its queries have rankings.
        captions: Records of captions.
    """
    rows: _Rows = {}
    for record in retrieval:
        _add_intervals(rows, "retrieval_intervals", record)
        for query, best in record["rankings"].items():
            values = {metric: record["per_query"][metric].get(query) for metric in METRIC_NAMES}
            top = json.dumps(best, ensure_ascii=False)
            _add(rows, "retrieval_queries", record, query=query, **values, top10=top)
    for record in captions:
        _add_intervals(rows, "caption_intervals", record)
        for item, text in record["captions"].items():
            values = {name: found[item] for name, found in record["per_picture"].items()}
            _add(rows, "caption_items", record, item=item, caption=text, **values)
    return {name: pd.DataFrame(rows.get(name, ()), columns=TABLES[name].all) for name in _NAMES}


def _add_intervals(rows: _Rows, table: str, record: Mapping[str, Any]) -> None:
    for metric, found in record["statistics"].items():
        if found["mean"] is not None:
            _add(rows, table, record, metric=metric, **found)


def _add(rows: _Rows, table: str, record: Mapping[str, Any], **given: Any) -> None:
    place = {key: record["rows"][0][key] for key in PLACE}
    rows.setdefault(table, []).append(row(table, **place, **given))


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
