"""The section "Quality against cost": what a millisecond or a megabyte buys, for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.report import formatting as fmt
from colport.report.charts import (
    Bar,
    Chart,
    ChartTable,
    Lane,
    LegendEntry,
    Point,
    lanes,
    legend,
    scatter,
)
from colport.report.charts.lanes import LEFT, RIGHT, Axis
from colport.report.charts.marks import HOLLOW, RECOMMENDED
from colport.report.charts.scales import from_zero
from colport.report.section import MAX_MODELS, ChartGroup, Material, Section, chart_section, undrawn
from colport.report.sections.embeddings import embeddings_table
from colport.tables.recommendation import ACCEPTED_LOSS

_PLACE = ("variant", "provider")
_QUALITY = ("ndcg_at_5", "ndcg_at_5_delta", "p_value", "parity_passed")
_LATENCY = (*_PLACE, "document_p50_ms", "document_speedup", *_QUALITY, "recommended")
_SIZE = (*_PLACE, "size_mb", *_QUALITY, "recommended")
_FORMS = (*_PLACE, "embeddings", "bytes_per_document", *_QUALITY, "top10_overlap")

_INTRO = (
    "Up and to the left is better. The line is the Pareto front: no other variant is both cheaper "
    "and better. The dashes are PyTorch's mean NDCG@5 over all queries of the model's datasets, "
    "the band below them the loss that is accepted. Latency is the median time to encode one "
    "smallest batch of documents, size that of the exported folder."
)
_FORMS_INTRO = " Where embeddings are on the axis, labels are the forms that they are stored in."
_PEERS_INTRO = " Grey is what others made: PyTorch and peers, exporters run on the same checkpoint."


def section(material: Material) -> Section:
    """NDCG@5 against latency, folder size and stored embeddings; folder sizes by variant."""
    summary = material.tables["summary"]
    forms = embeddings_table(material.tables["retrieval"])
    marks = legend(str(name) for name in summary["variant"])
    groups = [
        ChartGroup(str(model), _charts(number, str(model), rows, forms, marks))
        for number, (model, rows) in enumerate(summary.groupby("model", sort=False))
        if number < MAX_MODELS
    ]
    title = "Quality against cost"
    found = chart_section(
        "charts",
        title,
        "Charts",
        _INTRO + _FORMS_INTRO * bool(len(forms)) + _PEERS_INTRO * any(map(is_peer, marks)),
        groups,
        marks.values(),
        (("recommended", RECOMMENDED), ("hollow: parity failed", HOLLOW)),
        undrawn(summary),
    )
    return found or Section("charts", title, "Charts", "nothing.html")


def _charts(
    number: int,
    model: str,
    rows: pd.DataFrame,
    forms: pd.DataFrame,
    marks: Mapping[str, LegendEntry],
) -> list[Chart]:
    reference = rows.loc[rows["variant"] == REFERENCE_VARIANT, "ndcg_at_5"].mean()
    records = rows[rows["ndcg_at_5"].notna()].to_dict("records")
    own = forms[forms["model"] == model].merge(rows[[*_PLACE, "parity_passed"]], on=list(_PLACE))
    stored = own.to_dict("records")
    for row in stored:
        row["kb"] = row["bytes_per_document"] / 1e3
    drawn = (
        (
            f"latency-{number}",
            "NDCG@5 against document latency",
            "Median time of one document batch, ms",
            _points(records, "document_p50_ms", marks),
            ChartTable.of(records, _LATENCY),
        ),
        (
            f"size-{number}",
            "NDCG@5 against folder size",
            "Folder size, MB",
            _merged(_points(records, "size_mb", marks)),
            ChartTable.of(records, _SIZE),
        ),
        (
            f"embeddings-{number}",
            "NDCG@5 against stored embeddings",
            "Embeddings of a document, kB",
            _labelled_once(_points(stored, "kb", marks, label="embeddings")),
            ChartTable.of(stored, _FORMS),
        ),
    )
    charts = [
        scatter(key, model, caption, label, points, table, reference, ACCEPTED_LOSS)
        for key, caption, label, points, table in drawn
    ]
    charts.append(_sizes(f"sizes-{number}", model, rows, marks))
    return [chart for chart in charts if chart is not None]


def _points(
    rows: Sequence[Mapping[str, Any]],
    cost: str,
    marks: Mapping[str, LegendEntry],
    label: str = "",
) -> list[Point]:
    """A point a row; without a column to take labels from they are variants, and providers
    where there are several."""
    providers = {row["provider"] for row in rows if row["variant"] != REFERENCE_VARIANT}
    points = []
    for index, row in enumerate(rows):
        name = str(row[label or "variant"])
        if not label and len(providers) > 1:
            name = f"{name}, {fmt.provider(row['provider'])}"
        mark = marks[row["variant"]]
        points.append(
            Point(
                x=float(row[cost]),
                y=float(row["ndcg_at_5"]),
                label=name,
                row=index,
                shape=mark.shape,
                colour=mark.colour,
                sound=fmt.is_missing(row["parity_passed"]) or bool(row["parity_passed"]),
                chosen=not fmt.is_missing(row.get("recommended")) and bool(row["recommended"]),
            )
        )
    return points


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


def _sizes(
    key: str, model: str, rows: pd.DataFrame, marks: Mapping[str, LegendEntry]
) -> Chart | None:
    known = rows[rows["size_mb"].notna()].drop_duplicates("variant")
    if known.empty:
        return None
    records = known.sort_values("size_mb", ascending=False, kind="stable").to_dict("records")
    largest = records[0]["size_mb"]
    axis = Axis(from_zero(largest, LEFT, RIGHT), "Folder size, MB")
    drawn = [
        Lane(
            str(row["variant"]),
            _size_words(row["size_mb"], largest),
            [Bar(0.0, float(row["size_mb"]), marks[row["variant"]].colour, index)],
            index,
        )
        for index, row in enumerate(records)
    ]
    table = ChartTable.of(records, ("variant", "size_mb"))
    return lanes(key, model, "Folder size by variant, smaller is better", axis, drawn, table)


def _size_words(size: float, largest: float) -> str:
    share = "" if size == largest or largest <= 0 else f" ({size / largest:.0%})"
    return fmt.size_mb(size) + share
