"""The recommendation: what to ship for each model, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.machine import processor_class
from colport.base.names import REFERENCE_VARIANT, is_peer
from colport.report import formatting as fmt
from colport.report.section import DIFFERENCE, Material, delta_note
from colport.tables import KEYS, beside_reference, full_rows, typed
from colport.tables import recommendation as rule

_NEEDS = {
    rule.FASTEST: "fastest within parity on documents",
    rule.SMALLEST: f"smallest within {rule.SMALL_LOSS:.0%} of the quality",
    rule.BEST: "best quality",
    rule.CLOSEST: "closest to PyTorch's rankings",
}
_UNJUDGED = {**_NEEDS, rule.SMALLEST: "smallest that agrees with PyTorch's rankings"}
_EQUAL = f"{100 * rule.SAME_QUALITY:g} points"
_TIED = {
    rule.FASTEST: "as fast as the fastest on documents",
    rule.BEST: f"within noise or {_EQUAL} of the best quality",
    rule.CLOSEST: f"within {_EQUAL} of the closest to PyTorch's rankings",
}
"""What is said instead where another row that qualifies has the better figure."""


def section(material: Material) -> dict[str, Any]:
    """What to ship for which need, for each model, and why not the others.

    Returns:
        ``advice``: of each model its ``choices``, ``others`` (why not), the ``largest`` folder, the
        ``processor`` and ``commit`` it was measured with, and what made the machine ``noisy``;
        ``batches``: the smallest and the largest batch size.
    """
    summary, timed = (
        material.tables[name].reindex(columns=[*TABLES[name].all]) for name in ("summary", "latency")
    )
    timed = beside_reference(timed[timed["status"] == "ok"])
    batches = sorted({*timed["batch_size"].agg(["min", "max"]).dropna().astype(int)})
    advice = [
        _of_model(material, str(model), rows, timed[timed["model"] == model], batches)
        for model, rows in typed("summary", summary).groupby("model", sort=False)
    ]
    failed = bool(material.run.get("allow_failed_parity"))
    return {
        **{"advice": advice, "batches": batches, "rule": rule, "allow_failed_parity": failed},
        "agreement": summary["agreement"].notna().any(),
        "judged": summary["ndcg_at_5"].notna().any() or summary["agreement"].isna().all(),
    }


def _of_model(
    material: Material, model: str, rows: pd.DataFrame, timed: pd.DataFrame, batches: Sequence[int]
) -> dict[str, Any]:
    needs = {index: _needs(row) for index, row in rows.iterrows()}
    chosen = [index for index, names in needs.items() if names]
    chosen.sort(key=lambda index: [*_NEEDS].index(needs[index][0]))
    words = _NEEDS if rows["ndcg_at_5"].notna().any() else _UNJUDGED
    rivals = rows[rows.index.isin(chosen) | rows["verdict"].str.startswith("qualifies")]
    choices = []
    for index, row in rows.loc[chosen].iterrows():
        own = _of(row, timed)
        faster = [_faster(own, timed.merge(rivals[KEYS]), batch) for batch in batches]
        said = words | {need: _TIED[need] for need in _beaten(row, rivals, faster)}
        said[rule.FASTEST] += f" at batch {batches[0]}" if batches else ""
        choices.append(
            {
                "needs": ", ".join(said[need] for need in needs[index]),
                "row": row,
                "note": delta_note(*row[[*DIFFERENCE]]),
                "worst": _worst_dataset(row, full_rows(material.tables["retrieval"])),
                "times": {(one["kind"], one["batch_size"]): one for one in own.to_dict("records")},
                "faster": [one for one in faster if one],
            }
        )
    doubtful = _of(rows.loc[chosen[0]], timed) if chosen else timed
    noise = doubtful["reason"].str.extract("noisy machine: (.*)")[0].dropna()
    described = material.run.get("environment") or {}
    runs = (described.get("runs") or {}).get(model) or {"": described}
    place = rows.loc[chosen[0], "provider"] if chosen else next(iter(runs))
    described = runs.get(place, described)
    return {
        "model": model,
        "choices": choices,
        "others": _reasons(rows.drop(chosen)),
        "largest": _largest(rows),
        "noisy": noise.iloc[0] if len(noise) else "",
        "processor": processor_class(described) or described.get("cpu"),
        "commit": described.get("commit"),
    }


def _needs(row: pd.Series) -> list[str]:
    """What a row is chosen for; tables of older runs only know which is recommended."""
    needs = [need for need in _NEEDS if need in row["best_for"].split(", ")]
    return needs or [rule.FASTEST] * fmt.is_true(row["recommended"])


def _faster(own: pd.DataFrame, rivals: pd.DataFrame, batch_size: int) -> dict[str, Any] | None:
    """The fastest of the rivals on documents, if it is faster than the row's own."""
    own, rivals = (
        table[(table["kind"] == "document") & (table["batch_size"] == batch_size)]
        for table in (own, rivals)
    )
    faster = rivals[rivals["cost_ms"] < own["cost_ms"].min()]
    return None if faster.empty else faster.loc[faster["cost_ms"].idxmin()].to_dict()


def _beaten(row: pd.Series, rivals: pd.DataFrame, faster: Sequence[Any]) -> set[str]:
    """Needs for which a rival has the better figure, by less than counts."""
    found = {rule.FASTEST} if any(faster[:1]) else set()
    for need, figure in ((rule.BEST, "ndcg_at_5"), (rule.CLOSEST, "agreement")):
        found |= {need} if (rivals[figure] > row[figure]).any() else set()
    return found


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
