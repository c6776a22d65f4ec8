"""The recommendation in words: what to ship for each model, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from colport.recommendation import ACCEPTED_LOSS, NOISE_LOSS, REFERENCE_VARIANT, SIGNIFICANCE
from colport.report import formatting as fmt
from colport.report.section import Material, Section
from colport.report.views import delta_note
from colport.tables import full_rows


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
class Advice:
    """What to do about one model.

    Attributes:
        model: Its name.
        variant: The variant to ship; empty if none qualifies.
        provider: The provider to run it on.
        sentences: The costs and gains in words.
        figures: The same, absolute.
        others: Why the other rows are not it.
    """

    model: str
    variant: str = ""
    provider: str = ""
    sentences: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    others: list[Reason] = field(default_factory=list)


def section(material: Material) -> Section:
    """What to ship, for each model."""
    content = {
        "advice": advise(material.tables["summary"], full_rows(material.tables["retrieval"])),
        "rule": {"accepted": ACCEPTED_LOSS, "noise": NOISE_LOSS, "significance": SIGNIFICANCE},
        "allow_failed_parity": bool(material.run.get("allow_failed_parity")),
    }
    title = "Recommendation"
    return Section("recommendation", title, title, "recommendation.html", content)


def advise(summary: pd.DataFrame, retrieval: pd.DataFrame) -> list[Advice]:
    """One advice a model, in the order of ``summary``."""
    found = []
    for model, rows in summary.groupby("model", sort=False):
        chosen = rows[rows["recommended"].fillna(False).astype(bool)]
        others = _reasons(rows.drop(chosen.index))
        if chosen.empty:
            found.append(Advice(str(model), others=others))
            continue
        row = chosen.iloc[0]
        found.append(
            Advice(
                model=str(model),
                variant=str(row["variant"]),
                provider=fmt.provider(row["provider"]),
                sentences=[_trade(row, rows), *_worst_dataset(row, retrieval)],
                figures=_figures(row, rows),
                others=others,
            )
        )
    return found


def _reasons(rows: pd.DataFrame) -> list[Reason]:
    """Verdicts in order of appearance, the variants of one provider together."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for row in rows.to_dict("records"):
        if row["variant"] == REFERENCE_VARIANT:
            continue
        verdict = fmt.redact(str(row.get("verdict") or "no verdict was recorded"))
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
    known = rows[(rows["variant"] != REFERENCE_VARIANT) & rows["size_mb"].notna()]
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
    quality = f"{fmt.fixed(3, signed=True)(delta)} vs PyTorch"
    note = delta_note(delta, p_value)
    if note == "within noise":
        quality = f"{fmt.fixed(3, signed=True)(delta)}, within noise (p {_p_words(p_value)})"
    elif note:
        quality += f" (p {_p_words(p_value)})"
    size_note = ""
    if largest is not None and largest["variant"] != row["variant"]:
        size_note = f"{largest['variant']}: {fmt.size_mb(largest['size_mb'])}"
    return [
        Figure("NDCG@5", fmt.fixed(3)(row["ndcg_at_5"]), quality),
        Figure("Folder", fmt.size_mb(row["size_mb"]), size_note),
        *(
            Figure(label, fmt.milliseconds(row[f"{kind}_p50_ms"]), _reference_ms(rows, row, kind))
            for kind, label in (("document", "A document"), ("query", "A query"))
        ),
    ]


def _reference_ms(rows: pd.DataFrame, row: pd.Series, kind: str) -> str:
    """PyTorch's time in the same run, which is what the speed-up was computed from."""
    duration, speedup = row[f"{kind}_p50_ms"], row[f"{kind}_speedup"]
    if fmt.is_missing(duration) or fmt.is_missing(speedup):
        return ""
    return f"PyTorch: {fmt.milliseconds(duration * speedup)}"


def _p_words(value: Any) -> str:
    shown = fmt.p_value(value)
    return shown.replace("<", "< ") if shown.startswith("<") else f"= {shown}"
