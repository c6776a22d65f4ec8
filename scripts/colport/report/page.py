"""The page itself: gather what the sections show, fill the template, embed style and behaviour."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from colport.recommendation import ACCEPTED_LOSS, NOISE_LOSS, REFERENCE_VARIANT, SIGNIFICANCE
from colport.report import formatting as fmt
from colport.report.advice import advise
from colport.report.charts import Chart, Point, scatter, shape_and_colour
from colport.report.columns import TITLES
from colport.report.embeddings import embeddings_table
from colport.report.matches import match_views
from colport.report.operators import empty_table, operator_charts
from colport.report.problems import failed_parity, find_problems
from colport.report.views import table_view
from colport.tables import COLUMNS, full_rows, typed

_HERE = Path(__file__).parent
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


def render(
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    explained: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as one HTML page that needs no network and no server.

    Args:
        tables: The tables of :data:`colport.tables.COLUMNS` by name; one that is missing counts
            as empty, a missing column as empty cells.
        run: ``title``, ``created`` (ISO 8601), ``colport_version``, ``environment`` (of
            :func:`colport.environment.describe`), ``settings`` (the configuration of the run) and
            ``allow_failed_parity``; all optional. Access tokens in it are blanked.
        explained: Records of :func:`colport.explain.record.explain_record`.

    Returns:
        The page; every text from outside is escaped, and its content security policy lets
        nothing run or load but its own style and behaviour.

    Raises:
        ArtifactError: A column holds a value that it cannot hold.
    """
    complete = {name: _complete(name, tables.get(name)) for name in COLUMNS}
    forms = embeddings_table(complete["retrieval"])
    shown = {**complete, "retrieval": full_rows(complete["retrieval"]), "embeddings": forms}
    shown["operators"] = tables.get("operators", empty_table())
    style, behaviour = _asset("style.css"), _asset("behaviour.js")
    summary = complete["summary"]
    legend = _legend(summary)
    environment = fmt.redact(dict(run.get("environment") or {}))
    return _template().render(
        title=run.get("title") or "ColPort report",
        created=_date(run.get("created")),
        version=run.get("colport_version"),
        machine=_machine(environment),
        counts=_counts(summary),
        advice=advise(summary, shown["retrieval"]),
        rule={"accepted": ACCEPTED_LOSS, "noise": NOISE_LOSS, "significance": SIGNIFICANCE},
        legend=legend,
        charted=_charts(summary, forms, legend),
        uncharted=max(0, summary["model"].nunique() - _MAX_CHARTED_MODELS),
        views=[
            table_view(name, shown[name]) for name in TITLES if name in COLUMNS or len(shown[name])
        ],
        operators=operator_charts(shown["operators"]),
        matches=match_views(explained),
        problems=find_problems(complete),
        failed_parity=failed_parity(complete["parity"]),
        allow_failed_parity=bool(run.get("allow_failed_parity")),
        environment=_environment_rows(environment),
        packages=sorted((environment.get("packages") or {}).items()),
        settings=_settings(run.get("settings")),
        style=Markup(style),
        behaviour=Markup(behaviour),
        style_hash=_hash(style),
        behaviour_hash=_hash(behaviour),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html")


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _complete(name: str, table: pd.DataFrame | None) -> pd.DataFrame:
    table = pd.DataFrame() if table is None else table
    further = [column for column in table.columns if column not in COLUMNS[name]]
    return typed(name, table.reindex(columns=[*COLUMNS[name], *further]).reset_index(drop=True))


def _legend(summary: pd.DataFrame) -> list[LegendEntry]:
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


def _counts(summary: pd.DataFrame) -> list[str]:
    variants = summary[summary["variant"] != REFERENCE_VARIANT]
    counts = (
        (summary["model"].nunique(), "model"),
        (variants["variant"].nunique(), "variant"),
        (variants["provider"].nunique(), "provider"),
    )
    return [f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts]


def _date(created: Any) -> str:
    try:
        moment = datetime.fromisoformat(str(created))
    except ValueError:
        return "" if created is None else str(created)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _machine(environment: Mapping[str, Any]) -> str:
    parts = [environment.get("cpu"), environment.get("gpu")]
    cores = environment.get("cores")
    if cores:
        parts.insert(1, f"{cores} core{'' if cores == 1 else 's'}")
    return ", ".join(str(part) for part in parts if part)


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = {"cpu": "CPU", "cores": "Cores", "memory_mb": "Memory", "gpu": "GPU"}
    labels |= {"platform": "Platform", "python": "Python"}
    rows = []
    for key, label in labels.items():
        value = environment.get(key)
        if key == "memory_mb" and isinstance(value, int | float):
            rows.append((label, f"{value / 1024:.1f} GiB"))
        else:
            rows.append((label, "none" if key == "gpu" and value is None else fmt.text(value)))
    further = [key for key in environment if key not in labels and key != "packages"]
    return rows + [(key.replace("_", " "), fmt.text(environment[key])) for key in further]


def _settings(settings: Any) -> str:
    if not settings:
        return ""
    plain = json.loads(json.dumps(settings, default=str))
    return yaml.safe_dump(fmt.redact(plain), sort_keys=False, allow_unicode=True, width=88)
