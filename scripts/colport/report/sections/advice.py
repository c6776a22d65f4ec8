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
from colport.tables.summary import TIMED

_NEEDS = {
    rule.FASTEST: "fastest within parity on {documents}",
    rule.SMALLEST: f"smallest within {rule.SMALL_LOSS:.0%} of the quality",
    rule.BEST: f"best quality within noise or {100 * rule.SAME_QUALITY:g} points",
    rule.CLOSEST: f"closest to PyTorch's {{rankings}} within {100 * rule.SAME_QUALITY:g} points",
}
_UNJUDGED = {**_NEEDS, rule.SMALLEST: "smallest that agrees with PyTorch's {rankings}"}
_WORDS = {name: name for name in ("query", "queries", "document", "documents", "rankings")}
_CAPTION_WORDS = {"query": "first token", "queries": "first tokens"}
_CAPTION_WORDS |= {"document": "caption", "documents": "captions", "rankings": "captions"}
"""What stands in the page for what a model is timed on."""
_AS_FAST = {rule.FASTEST: "as fast as the fastest on {documents}"}
"""Where another one that qualifies has the larger speed-up; see :func:`rule.recommend`."""


def section(material: Material) -> dict[str, Any]:
    """What to ship for which need, for each model, and why not the others.

    Returns:
        ``advice``: of each model its ``choices``, ``others`` (why not), the ``largest`` folder, the
        ``processor`` and ``commit`` it was measured with, and what made the machine ``noisy``;
        ``batches``: the smallest and the largest batch size; ``kinds``: what is timed, in words.
    """
    summary = material.tables["summary"].reindex(columns=[*TABLES["summary"].all])
    timed = beside_reference(material.tables["latency"].reindex(columns=[*TABLES["latency"].all]))
    timed = timed[timed["status"] == "ok"].replace({"kind": TIMED})
    batches = sorted({*timed["batch_size"].agg(["min", "max"]).dropna().astype(int)})
    advice = [
        _of_model(material, str(model), rows, timed[timed["model"] == model], batches)
        for model, rows in typed("summary", summary).groupby("model", sort=False)
    ]
    kinds = {kind: " or ".join({item["words"][kind]: 0 for item in advice}) for kind in _WORDS}
    return {
        **{"advice": advice, "batches": batches, "rule": rule, "kinds": kinds},
        "allow_failed_parity": bool(material.run.get("allow_failed_parity")),
        "agreement": summary["agreement"].notna().any(),
    }


def _of_model(
    material: Material, model: str, rows: pd.DataFrame, timed: pd.DataFrame, batches: Sequence[int]
) -> dict[str, Any]:
    names = _CAPTION_WORDS if model in {*material.tables["captions"]["model"]} else _WORDS
    needs = {index: _needs(row) for index, row in rows.iterrows()}
    chosen = [index for index, names in needs.items() if names]
    chosen.sort(key=lambda index: [*_NEEDS].index(needs[index][0]))
    words = _NEEDS if rows["ndcg_at_5"].notna().any() else _UNJUDGED
    rivals = rows[rows.index.isin(chosen) | rows["verdict"].str.startswith("qualifies")]
    choices = []
    for index, row in rows.loc[chosen].iterrows():
        own = _of(row, timed)
        faster = _faster(own, timed.merge(rivals[KEYS]))
        said = words | (_AS_FAST if any(one["batch_size"] == batches[0] for one in faster) else {})
        said[rule.FASTEST] += f" at batch {batches[0]}" if batches else ""
        choices.append(
            {
                "needs": ", ".join(said[need] for need in needs[index]).format_map(names),
                "row": row,
                **{"note": delta_note(*row[[*DIFFERENCE]]), "faster": faster},
                "worst": _worst_dataset(row, full_rows(material.tables["retrieval"])),
                "times": {(one["kind"], one["batch_size"]): one for one in own.to_dict("records")},
            }
        )
    doubtful = _of(choices[0]["row"], timed) if choices else timed
    noise = doubtful["reason"].str.extract("noisy machine: (.*)")[0].dropna()
    described = material.run.get("environment") or {}
    runs = described.get("runs", {}).get(model, {})
    described = next((runs[name] for name in doubtful["provider"] if name in runs), described)
    return {
        **{"model": model, "choices": choices, "others": _reasons(rows.drop(chosen))},
        "words": names,
        **{"largest": _largest(rows), "noisy": next(iter(noise), "")},
        "processor": processor_class(described) or described.get("cpu"),
        "commit": described.get("commit"),
    }


def _faster(own: pd.DataFrame, rivals: pd.DataFrame) -> list[dict[str, Any]]:
    """The fastest of the rivals on documents, of each batch size at which it beats a variant."""
    pairs = rivals.merge(own, on=["kind", "batch_size"], suffixes=("", "_own"))
    ahead = pairs[(pairs["kind"] == "document") & (pairs["cost_ms"] < pairs["cost_ms_own"])]
    ahead = ahead.sort_values("cost_ms").drop_duplicates("batch_size").sort_values("batch_size")
    return ahead.to_dict("records")


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
