"""The recommendation: what to ship for each model, and what it costs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.report import formatting as fmt
from colport.report.section import Material, delta_note
from colport.tables import KEYS, full_rows, typed
from colport.tables import recommendation as rule

_NEEDS = {
    rule.FASTEST: "fastest within parity",
    rule.SMALLEST: f"smallest within {rule.SMALL_LOSS:.0%} of the quality",
    rule.BEST: "best quality",
    rule.CLOSEST: "closest to PyTorch's rankings",
}
_UNJUDGED = {**_NEEDS, rule.SMALLEST: "smallest that agrees with PyTorch's rankings"}


def section(material: Material) -> dict[str, Any]:
    """What to ship for which need, for each model, and why not the others."""
    tables = material.tables
    summary, timed, retrieval = (tables[name] for name in ("summary", "latency", "retrieval"))
    summary = summary.reindex(columns=[*dict.fromkeys((*TABLES["summary"].all, *summary))])
    advice = []
    for model, rows in typed("summary", summary).groupby("model", sort=False):
        needs = {index: _needs(row) for index, row in rows.iterrows()}
        chosen = [index for index, names in needs.items() if names]
        chosen.sort(key=lambda index: [*_NEEDS].index(needs[index][0]))
        words = _NEEDS if rows["ndcg_at_5"].notna().any() else _UNJUDGED
        choices = [
            {
                "needs": ", ".join(words[need] for need in needs[index]),
                "row": row,
                "note": delta_note(row["ndcg_at_5_delta"], row["p_value"]),
                "worst": _worst_dataset(row, full_rows(retrieval)),
                "noisy": _of(row, timed)["reason"].str.startswith("noisy machine").any(),
            }
            for index, row in rows.loc[chosen].iterrows()
        ]
        others, largest = _reasons(rows.drop(chosen)), _largest(rows)
        advice.append({"model": model, "choices": choices, "others": others, "largest": largest})
    failed = bool(material.run.get("allow_failed_parity"))
    agreement = summary["agreement"].notna().any()
    return {"advice": advice, "rule": rule, "allow_failed_parity": failed, "agreement": agreement}


def _needs(row: pd.Series) -> list[str]:
    """What a row is chosen for; tables of older runs only know which is recommended."""
    needs = [need for need in _NEEDS if need in row["best_for"].split(", ")]
    return needs or [rule.FASTEST] * fmt.is_true(row["recommended"])


def _of(row: pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    return table[(table[KEYS] == row[KEYS]).all(axis=1)]


def _reasons(rows: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Verdicts in order of appearance, the variants of one provider together."""
    verdicts = rows["verdict"].replace("", "no verdict was recorded")
    rows = rows.assign(verdict=verdicts, provider=rows["provider"].map(fmt.provider))
    reasons = {}
    for verdict, found in rows[rows["variant"] != REFERENCE_VARIANT].groupby("verdict", sort=False):
        own = found.groupby("provider", sort=False)["variant"].agg(", ".join)
        reasons[verdict] = [f"{names} on {provider}" for provider, names in own.items()]
    return sorted(reasons.items(), key=lambda reason: reason[0].startswith("unsupported"))


def _largest(rows: pd.DataFrame) -> pd.Series | None:
    beside = (rows["variant"] == REFERENCE_VARIANT) | rows["variant"].map(is_peer).astype(bool)
    known = rows[~beside & rows["size_mb"].notna()]
    return None if known.empty else known.loc[known["size_mb"].idxmax()]


def _worst_dataset(row: pd.Series, retrieval: pd.DataFrame) -> pd.Series | None:
    """The largest significant loss, where there are several datasets."""
    rows = _of(row, retrieval)
    lost = rows[(rows["p_value"] <= rule.SIGNIFICANCE) & (rows["ndcg_at_5_delta"] < 0)]
    if lost.empty or len(rows) < 2:
        return None
    return lost.loc[lost["ndcg_at_5_delta"].idxmin()]
