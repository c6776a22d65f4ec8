"""The recommendation in words: what to ship for each model, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.base.redaction import redacted
from colport.report import formatting as fmt
from colport.report.section import Material, Section
from colport.report.sections.machine import in_words
from colport.report.sections.views import delta_note
from colport.tables import full_rows
from colport.tables.recommendation import (
    ACCEPTED_LOSS,
    BEST,
    FASTEST,
    NEEDS,
    NOISE_LOSS,
    SAME_SPEED,
    SIGNIFICANCE,
    SMALL_LOSS,
    SMALLEST,
    TIED_SPEED,
)


@dataclass(frozen=True)
class Figure:
    """One figure of the recommended row: what, how much, compared with what."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Reason:
    """One verdict and the variants (with their providers) that it holds for."""

    verdict: str
    places: list[str]


@dataclass(frozen=True)
class Choice:
    """The variant for some needs.

    Attributes:
        needs: What it is chosen for, in words.
        variant: The variant to ship.
        provider: The provider to run it on.
        sentences: The costs and gains in words.
        figures: The same, absolute.
    """

    needs: str
    variant: str
    provider: str
    sentences: list[str]
    figures: list[Figure]


@dataclass(frozen=True)
class Advice:
    """What to do about one model.

    Attributes:
        model: Its name.
        choices: A variant for each need; empty if none qualifies.
        others: Why the other rows are not it.
    """

    model: str
    choices: list[Choice] = field(default_factory=list)
    others: list[Reason] = field(default_factory=list)


_NEEDS = {
    FASTEST: "fastest within parity",
    SMALLEST: f"smallest within {SMALL_LOSS:.0%} of the quality",
    BEST: "best quality",
}


def section(material: Material) -> Section:
    """What to ship for which need, for each model."""
    tables = material.tables
    content = {
        "advice": advise(tables["summary"], full_rows(tables["retrieval"]), tables["latency"]),
        "machine": in_words(material.run.get("environment") or {}),
        "rule": {
            "accepted": ACCEPTED_LOSS,
            "noise": NOISE_LOSS,
            "significance": SIGNIFICANCE,
            "same": SAME_SPEED,
            "tied": TIED_SPEED,
        },
        "allow_failed_parity": bool(material.run.get("allow_failed_parity")),
    }
    title = "Recommendation"
    return Section("recommendation", title, title, "recommendation.html", content)


def advise(summary: pd.DataFrame, retrieval: pd.DataFrame, latency: pd.DataFrame) -> list[Advice]:
    """One advice a model, in the order of ``summary``."""
    found = []
    for model, rows in summary.groupby("model", sort=False):
        needs = {index: _needs(row) for index, row in rows.iterrows()}
        chosen = sorted(
            (index for index, names in needs.items() if names),
            key=lambda index: NEEDS.index(needs[index][0]),
        )
        choices = [_choice(needs[index], rows.loc[index], rows, retrieval) for index in chosen]
        for index, choice in zip(chosen[:1], choices, strict=False):
            choice.sentences.extend(_noise(rows.loc[index], latency))
        found.append(Advice(str(model), choices, _reasons(rows.drop(chosen))))
    return found


def _needs(row: pd.Series) -> list[str]:
    """What a row is chosen for; tables of older runs only know which is recommended."""
    named = row.get("best_for", "")
    needs = [need for need in NEEDS if not fmt.is_missing(named) and need in named.split(", ")]
    recommended = not fmt.is_missing(row["recommended"]) and bool(row["recommended"])
    return needs or [FASTEST] * recommended


def _choice(
    needs: list[str],
    row: pd.Series,
    rows: pd.DataFrame,
    retrieval: pd.DataFrame,
) -> Choice:
    words = ", ".join(_NEEDS[need] for need in needs)
    return Choice(
        needs=f"{words[:1].upper()}{words[1:]}",
        variant=str(row["variant"]),
        provider=fmt.provider(row["provider"]),
        sentences=[_trade(row, rows), *_worst_dataset(row, retrieval)],
        figures=_figures(row, rows),
    )


def _noise(row: pd.Series, latency: pd.DataFrame) -> list[str]:
    """A warning where its speed was measured on a busy machine."""
    keys = ["model", "variant", "provider"]
    own = latency[(latency[keys] == row[keys]).all(axis=1)]
    noisy = own["reason"].str.startswith("noisy machine")
    return ["The machine was busy: trust speed-ups no further than their range."] * bool(
        noisy.any()
    )


def _reasons(rows: pd.DataFrame) -> list[Reason]:
    """Verdicts in order of appearance, the variants of one provider together."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for row in rows.to_dict("records"):
        if row["variant"] == REFERENCE_VARIANT:
            continue
        verdict = redacted(str(row.get("verdict") or "no verdict was recorded"))
        providers = grouped.setdefault(verdict, {})
        providers.setdefault(fmt.provider(row["provider"]), []).append(str(row["variant"]))
    return [
        Reason(verdict, [f"{', '.join(names)} on {place}" for place, names in providers.items()])
        for verdict, providers in sorted(
            grouped.items(), key=lambda item: item[0].startswith("unsupported")
        )
    ]


def _trade(row: pd.Series, rows: pd.DataFrame) -> str:
    speeds = [("documents", row["document_speedup"]), ("queries", row["query_speedup"])]
    parts = [_speed_words(speeds), _size_words(row, rows), _quality_words(row)]
    sentence = "; ".join(part for part in parts if part)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _speed_words(speeds: list[tuple[str, Any]]) -> str:
    known = [(what, fmt.significant(speed)) for what, speed in speeds if not fmt.is_missing(speed)]
    if not known:
        return ""
    first, *rest = [f"{speed} times on {what}" for what, speed in known]
    words = " and ".join([first.replace(" on ", " as fast as PyTorch on "), *rest])
    slower = [what for what, speed in speeds if not fmt.is_missing(speed) and speed < 0.995]
    return f"{words}, which is slower on {' and '.join(slower)}" if slower else words


def _largest(rows: pd.DataFrame) -> pd.Series | None:
    beside = (rows["variant"] == REFERENCE_VARIANT) | rows["variant"].map(is_peer).astype(bool)
    known = rows[~beside & rows["size_mb"].notna()]
    return None if known.empty else known.loc[known["size_mb"].idxmax()]


def _size_words(row: pd.Series, rows: pd.DataFrame) -> str:
    largest = _largest(rows)
    if largest is None or fmt.is_missing(row["size_mb"]) or row["size_mb"] <= 0:
        return ""
    saved = 1 - row["size_mb"] / largest["size_mb"]
    return f"{saved:.0%} smaller than {largest['variant']}" if saved >= 0.005 else ""


def _quality_words(row: pd.Series) -> str:
    delta, note = row["ndcg_at_5_delta"], delta_note(row["ndcg_at_5_delta"], row.get("p_value"))
    if fmt.is_missing(delta):
        return "its quality against PyTorch is not known"
    points = f"{abs(100 * delta):.1f} points of NDCG@5"
    if points.startswith("0.0"):
        return "NDCG@5 is that of PyTorch"
    if note == "within noise":
        change = "lower" if delta < 0 else "higher"
        return f"NDCG@5 is {points.replace(' of NDCG@5', '')} {change}, which is within noise"
    return f"it loses {points}" if delta < 0 else f"it gains {points}"


def _worst_dataset(row: pd.Series, retrieval: pd.DataFrame) -> list[str]:
    same = (
        retrieval[["model", "variant", "provider"]] == row[["model", "variant", "provider"]]
    ).all(axis=1)
    rows = retrieval[same & (retrieval["p_value"] <= SIGNIFICANCE)]
    rows = rows[rows["ndcg_at_5_delta"] < 0]
    if rows.empty or same.sum() < 2:
        return []
    worst = rows.loc[rows["ndcg_at_5_delta"].idxmin()]
    return [
        f"Its largest significant loss is {-100 * worst['ndcg_at_5_delta']:.1f} points, "
        f"on {worst['dataset']} (p {_p_words(worst['p_value'])})."
    ]


def _figures(row: pd.Series, rows: pd.DataFrame) -> list[Figure]:
    largest = _largest(rows)
    delta, p_value = row["ndcg_at_5_delta"], row.get("p_value")
    note = delta_note(delta, p_value)
    quality = f"{fmt.fixed(3, signed=True)(delta)} to PyTorch{_interval(row)}"
    if note:
        quality += f", {note} (p {_p_words(p_value)})"
    size_note = ""
    if largest is not None and largest["variant"] != row["variant"]:
        size_note = f"{largest['variant']}: {fmt.size_mb(largest['size_mb'])}"
    return [
        Figure("NDCG@5", fmt.fixed(3)(row["ndcg_at_5"]), quality),
        Figure("Folder", fmt.size_mb(row["size_mb"]), size_note),
        *(
            Figure(label, fmt.milliseconds(row[f"{kind}_p50_ms"]), _speed_note(row, kind))
            for kind, label in (("document", "A document"), ("query", "A query"))
        ),
    ]


def _interval(row: pd.Series) -> str:
    low, high = row.get("ndcg_at_5_delta_low"), row.get("ndcg_at_5_delta_high")
    if fmt.is_missing(low) or fmt.is_missing(high):
        return ""
    signed = fmt.fixed(3, signed=True)
    return f" ({signed(low)} to {signed(high)})"


def _speed_note(row: pd.Series, kind: str) -> str:
    """The speed-up with its range, and PyTorch's time in the same run."""
    duration, speedup = row[f"{kind}_p50_ms"], row[f"{kind}_speedup"]
    if fmt.is_missing(duration) or fmt.is_missing(speedup):
        return ""
    low, high = (row.get(f"{kind}_speedup_{end}") for end in ("low", "high"))
    spread = ""
    if not fmt.is_missing(low) and not fmt.is_missing(high):
        spread = f" ({fmt.significant(low)} to {fmt.significant(high)})"
    return f"{fmt.ratio(speedup)}{spread}; PyTorch: {fmt.milliseconds(duration * speedup)}"


def _p_words(value: Any) -> str:
    shown = fmt.p_value(value)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"
