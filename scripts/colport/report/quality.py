"""The section "Quality against cost": one scatter chart a model and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from colport.recommendation import ACCEPTED_LOSS, REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import Chart, Point, scatter, shape_and_colour
from colport.report.embeddings import embeddings_table
from colport.report.section import Material, Section

_MAX_CHARTED_MODELS = 12
_CHARTS = (
    (
        "latency",
        "document_p50_ms",
        "NDCG@5 against document latency",
        "Median time of one document batch, ms",
    ),
    ("size", "size_mb", "NDCG@5 against folder size", "Folder size, MB"),
)
"""Key, column of the cost, caption and axis label."""


@dataclass(frozen=True)
class ModelCharts:
    """The charts of one model."""

    model: str
    charts: list[Chart]


@dataclass(frozen=True)
class LegendEntry:
    """The mark of one variant."""

    variant: str
    shape: str
    colour: str


def section(material: Material) -> Section:
    """NDCG@5 against latency, folder size and stored embeddings, for each model."""
    summary = material.tables["summary"]
    forms = embeddings_table(material.tables["retrieval"])
    legend = variant_legend(summary)
    content = {
        "legend": legend,
        "charted": _charts(summary, forms, legend),
        "forms": bool(len(forms)),
        "uncharted": max(0, summary["model"].nunique() - _MAX_CHARTED_MODELS),
    }
    return Section("charts", "Quality against cost", "Charts", "quality.html", content)


def variant_legend(summary: pd.DataFrame) -> list[LegendEntry]:
    """The mark of every variant, PyTorch first; the same in every chart of the page."""
    variants = [name for name in summary["variant"].unique() if name != REFERENCE_VARIANT]
    entries = [LegendEntry(name, *shape_and_colour(i)) for i, name in enumerate(variants)]
    if (summary["variant"] == REFERENCE_VARIANT).any():
        entries.insert(0, LegendEntry(REFERENCE_VARIANT, *shape_and_colour(None)))
    return entries


def _charts(
    summary: pd.DataFrame, forms: pd.DataFrame, legend: list[LegendEntry]
) -> list[ModelCharts]:
    marks = {entry.variant: entry for entry in legend}
    charted = []
    for number, (model, rows) in enumerate(summary.groupby("model", sort=False)):
        if number == _MAX_CHARTED_MODELS:
            break
        reference = rows.loc[rows["variant"] == REFERENCE_VARIANT, "ndcg_at_5"].mean()
        charts = []
        for key, column, caption, label in _CHARTS:
            points = [_point(row, column, marks, rows) for row in rows.to_dict("records")]
            if key == "size":
                points = _merged(points)
            chart = scatter(
                f"{key}-{number}", str(model), caption, label, points, reference, ACCEPTED_LOSS
            )
            charts += [chart] if chart is not None else []
        own = forms[forms["model"] == model].merge(
            rows[["variant", "provider", "parity_passed"]], on=["variant", "provider"]
        )
        chart = scatter(
            f"embeddings-{number}",
            str(model),
            "NDCG@5 against stored embeddings",
            "Embeddings of a document, kB",
            _labelled_once([_form_point(row, marks) for row in own.to_dict("records")]),
            reference,
            ACCEPTED_LOSS,
            table="smaller embeddings",
        )
        charts += [chart] if chart is not None else []
        charted.append(ModelCharts(str(model), charts))
    return charted


def _point(
    row: Mapping[str, Any], column: str, marks: Mapping[str, LegendEntry], rows: pd.DataFrame
) -> Point:
    measured = rows[rows["ndcg_at_5"].notna() & rows["document_p50_ms"].notna()]
    several = measured.loc[measured["variant"] != REFERENCE_VARIANT, "provider"].nunique() > 1
    provider = fmt.provider(row["provider"])
    sound = fmt.is_missing(row["parity_passed"]) or bool(row["parity_passed"])
    chosen = not fmt.is_missing(row["recommended"]) and bool(row["recommended"])
    label = f"{row['variant']}, {provider}" if several else str(row["variant"])
    details = [
        f"{row['variant']} on {provider}",
        f"NDCG@5 {fmt.fixed(3)(row['ndcg_at_5'])}",
        f"document {fmt.milliseconds(row['document_p50_ms'])}",
        f"size {fmt.size_mb(row['size_mb'])}",
    ]
    details += ["recommended"] * chosen + ["parity failed"] * (not sound)
    mark = marks[row["variant"]]
    return Point(
        x=float(row[column]),
        y=float(row["ndcg_at_5"]),
        label=label,
        detail="; ".join(details),
        shape=mark.shape,
        colour=mark.colour,
        sound=sound,
        chosen=chosen,
    )


def _form_point(row: Mapping[str, Any], marks: Mapping[str, LegendEntry]) -> Point:
    mark = marks[row["variant"]]
    details = [
        f"{row['embeddings']} embeddings of {row['variant']} on {fmt.provider(row['provider'])}",
        f"NDCG@5 {fmt.fixed(3)(row['ndcg_at_5'])}",
        f"document {fmt.size_bytes(row['bytes_per_document'])}",
    ]
    sound = fmt.is_missing(row["parity_passed"]) or bool(row["parity_passed"])
    details += ["parity failed"] * (not sound)
    return Point(
        x=float(row["bytes_per_document"]) / 1e3,
        y=float(row["ndcg_at_5"]),
        label=str(row["embeddings"]),
        detail="; ".join(details),
        shape=mark.shape,
        colour=mark.colour,
        sound=sound,
    )


def _labelled_once(points: list[Point]) -> list[Point]:
    """Points of a form stand above each other: its name goes to the best one."""
    best: dict[str, Point] = {}
    for point in points:
        known = best.setdefault(point.label, point)
        if (point.sound, point.y) > (known.sound, known.y):
            best[point.label] = point
    return [point if point is best[point.label] else replace(point, label="") for point in points]


def _merged(points: list[Point]) -> list[Point]:
    """One point for the providers of a variant that lie at the same place: its name alone."""
    kept: dict[tuple[object, ...], Point] = {}
    for point in points:
        place = (point.shape, point.colour, point.x, f"{point.y:.3f}", point.sound)
        same = kept.get(place)
        if same is None:
            kept[place] = point
        else:
            chosen = point if point.chosen else same
            kept[place] = replace(chosen, label=chosen.label.partition(", ")[0])
    return list(kept.values())
