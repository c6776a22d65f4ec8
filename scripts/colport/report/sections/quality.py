"""The section "Quality against cost": what a millisecond or a megabyte buys, for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.report import formatting as fmt
from colport.report.charts import lanes, scatter
from colport.report.charts.chart import Chart
from colport.report.charts.marks import HOLLOW, RECOMMENDED, Legend
from colport.report.charts.scatter import Point
from colport.report.columns import ShownTable
from colport.report.section import PLACE, Material, drawn, namer
from colport.tables.recommendation import ACCEPTED_LOSS

_BATCH = "Median time of one document batch, ms"
_QUALITY = ("ndcg_at_5", "ndcg_at_5_delta", "p_value", "parity_passed")
_LATENCY = (*PLACE, "document_p50_ms", "document_speedup", *_QUALITY, "recommended")
_SIZE = (*PLACE, "size_mb", *_QUALITY, "recommended")
_FORMS = (*PLACE, "embeddings", "bytes_per_document", *_QUALITY, "top10_overlap")


def section(material: Material) -> dict[str, Any]:
    """NDCG@5 against latency, folder size and stored embeddings; folder sizes by variant."""
    forms, marks = material.tables["embeddings"], material.marks
    summary = [material.tables["summary"]]
    return {
        **(drawn(material, summary, partial(_charts, forms, marks)) or {"groups": {}}),
        "judged": summary[0]["ndcg_at_5"].notna().any(),
        "forms": len(forms),
        "peers": any(map(is_peer, marks)),
        "legend": marks,
        "further_marks": {"recommended": RECOMMENDED, "hollow: parity failed": HOLLOW},
    }


def _charts(
    forms: pd.DataFrame, marks: Legend, number: int, model: str, rows: pd.DataFrame
) -> list[Chart | None]:
    reference = rows.loc[rows["variant"] == REFERENCE_VARIANT, "ndcg_at_5"].mean()
    judged = rows[rows["ndcg_at_5"].notna()]
    forms = forms[forms["model"] == model].assign(kb=forms["bytes_per_document"] / 1e3)
    forms = forms.merge(rows[[*PLACE, "parity_passed"]], on=PLACE)
    latency = _points(judged, "document_p50_ms", marks)
    sizes = _merged(_points(judged, "size_mb", marks))
    stored = _labelled_once(_points(forms, "kb", marks, label="embeddings"))
    charts = []
    for key, cost, label, points, table, columns in (
        ("latency", "document latency", _BATCH, latency, judged, _LATENCY),
        ("size", "folder size", "Folder size, MB", sizes, judged, _SIZE),
        ("embeddings", "stored embeddings", "Embeddings of a document, kB", stored, forms, _FORMS),
    ):
        shown = ShownTable.of(table.to_dict("records"), columns)
        caption = f"NDCG@5 against {cost}"
        chart = scatter.chart(
            f"{key}-{number}", model, caption, label, points, shown, reference, ACCEPTED_LOSS
        )
        charts.append(chart)
    return [*charts, _sizes(f"sizes-{number}", model, rows, marks)]


def _points(rows: pd.DataFrame, cost: str, marks: Legend, label: str = "") -> list[Point]:
    """A point a row; without a column to take labels from they are variants, and providers
    where there are several."""
    name = namer(rows[rows["variant"] != REFERENCE_VARIANT], ", ")
    return [
        Point(
            x=float(row[cost]),
            y=float(row["ndcg_at_5"]),
            label=str(row[label]) if label else name(row["variant"], row["provider"]),
            row=index,
            mark=marks[row["variant"]],
            sound=fmt.is_missing(row["parity_passed"]) or bool(row["parity_passed"]),
            chosen=fmt.is_true(row.get("recommended")),
        )
        for index, row in enumerate(rows.to_dict("records"))
    ]


def _labelled_once(points: Sequence[Point]) -> list[Point]:
    """Points of a form stand above each other: its name goes to the best one."""
    best: dict[str, Point] = {}
    for point in points:
        known = best.setdefault(point.label, point)
        if (point.sound, point.y) > (known.sound, known.y):
            best[point.label] = point
    return [point if point is best[point.label] else replace(point, label="") for point in points]


def _merged(points: Sequence[Point]) -> list[Point]:
    """One point for the providers of a variant that lie at the same place: its name alone."""
    kept: dict[tuple[object, ...], Point] = {}
    for point in points:
        place = (point.mark, point.x, f"{point.y:.3f}", point.sound)
        same = kept.get(place)
        if same is None:
            kept[place] = point
        else:
            chosen = point if point.chosen else same
            kept[place] = replace(chosen, label=chosen.label.partition(", ")[0])
    return list(kept.values())


def _sizes(key: str, model: str, rows: pd.DataFrame, marks: Legend) -> Chart | None:
    known = rows[rows["size_mb"].notna()].drop_duplicates("variant")
    if known.empty:
        return None
    known = known.sort_values("size_mb", ascending=False, kind="stable")
    sizes = list(zip(known["variant"], known["size_mb"], strict=True))
    bars = [
        (variant, size, _size_words(size, sizes[0][1]), marks[variant].colour)
        for variant, size in sizes
    ]
    records, caption = known.to_dict("records"), "Folder size by variant, smaller is better"
    return lanes.bars(key, model, caption, "Folder size, MB", bars, records, ("variant", "size_mb"))


def _size_words(size: float, largest: float) -> str:
    share = "" if size == largest or largest <= 0 else f" ({size / largest:.0%})"
    return fmt.size_mb(size) + share
