"""``summary.csv``: computed from the four measured tables, it names the variants to ship."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.names import AGREEMENT, CONTROL, FULL, REFERENCE_VARIANT
from colport.scoring.details import PLACE, Pair, pairs
from colport.scoring.record import agreement, difference
from colport.scoring.score import HEADLINE
from colport.tables import KEYS, STAGES, beside_reference, flatten, full_rows, typed
from colport.tables.recommendation import MIN_AGREEMENT, recommend

Pairs = Mapping[tuple[str, ...], Pair]

_DIFFERENCE = ("p_value", "ndcg_at_5_delta_low", "ndcg_at_5_delta_high")
QUALITY = ("ndcg_at_5", "ndcg_at_5_delta", *_DIFFERENCE, *AGREEMENT)
"""Figures of :func:`quality`."""

_SPEED = {
    **{"p50_ms": "p50_ms", "speedup_vs_pytorch": "speedup"},
    **{"speedup_low": "speedup_low", "speedup_high": "speedup_high"},
}
"""Columns of ``latency.csv`` to what follows the kind in those of the summary."""


TIMED = {"first_token": "query", "caption": "document"}
"""Kinds of a captioner's latency to those in whose place they stand."""

_EQUAL = ("equal", "equal_low", "equal_high")


def build(
    records: Mapping[str, Sequence[Mapping[str, Any]]], min_agreement: float = MIN_AGREEMENT
) -> dict[str, pd.DataFrame]:
    """All five tables, from the records of the four stages by their names.

    Args:
        records: Leaf records; those of ``captions`` may be there, too.
        min_agreement: See :func:`colport.tables.recommendation.recommend`.

    Raises:
        ArtifactError: See :func:`flatten`.
    """
    stages = {name: flatten(name, records[name]) for name in STAGES}
    summary = summary_table(
        **stages,
        tested=pairs(records["retrieval"]),
        min_agreement=min_agreement,
        captions=flatten("captions", records.get("captions", ())),
    )
    return {"summary": summary, **stages}


def summary_table(
    export: pd.DataFrame,
    parity: pd.DataFrame,
    retrieval: pd.DataFrame,
    latency: pd.DataFrame,
    tested: Pairs = MappingProxyType({}),
    min_agreement: float = MIN_AGREEMENT,
    captions: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row a model, variant and provider, PyTorch included, with the recommendation.

    The rule of the recommendation: :func:`colport.tables.recommendation.recommend`.

    Returns:
        The contract's columns, then the further ones. ``size_mb``: 10**6 bytes of the
        exported folder (``folder_bytes``, else the sum of ``size_bytes``). ``ndcg_at_5`` and its
        delta: means over the model's judged datasets, missing unless all are ``ok``. Latency
        columns: those of the smallest batch size, the median if there are several rows.
        ``p_value`` and the interval of the difference: of one randomisation test over the
        queries of all datasets. The agreement: over those without judgements, empty where there
        are none. Of a captioner it is the share of captions that are PyTorch's, of several
        datasets the mean; its latency is that up to a first token, in the place of a query's, and
        that of a whole caption, in the place of a document's. Speed-ups have the range of their
        rounds.
        ``status``: the worst of all stages. ``verdict``: why the row is recommended or not, one
        phrase. ``best_for``: the :data:`colport.tables.recommendation.NEEDS` that it is chosen for.
    """
    retrieval = full_rows(retrieval[retrieval["model"] != CONTROL])
    latency = _candidates(beside_reference(latency.replace({"kind": TIMED})))
    captions = retrieval.iloc[:0] if captions is None else captions
    measured = {"parity": parity, "retrieval": retrieval, "captions": captions, "latency": latency}
    groups = {name: _groups(table, "provider") for name, table in measured.items()}
    folders = _groups(export)
    scored = pd.concat([retrieval[["model", "dataset"]], captions[["model", "dataset"]]])
    datasets = scored.groupby("model")["dataset"].agg(set)
    captioners = {*captions["model"]}
    smallest = latency.groupby(["model", "kind"])["batch_size"].min().to_dict()
    costs = latency.groupby([*KEYS, "kind", "batch_size"])["cost_ms"].median()
    rows = []
    for key in _row_keys(export, measured.values()):
        model, variant, provider = key
        folder = folders.get((model, variant), export.iloc[:0])
        found = {name: groups[name].get(key, table.iloc[:0]) for name, table in measured.items()}
        status, verdict = _worst_status([folder, *found.values()])
        row = {"model": model, "variant": variant, "provider": provider, "recommended": False}
        row |= {"size_mb": _folder_mb(folder), "status": status, "verdict": verdict}
        row |= {"parity_passed": _parity_passed(found["parity"])}
        row |= quality(found["retrieval"], datasets.get(model, set()), tested)
        row |= _equal(found["captions"], datasets.get(model, set()))
        row["unit"] = "caption" if model in captioners else "document"
        for kind in ("query", "document"):
            row |= _speed(found["latency"], kind, smallest.get((model, kind)))
        # For the recommendation alone.
        place = (*key, "document", smallest.get((model, "document")))
        row["document_cost_ms"] = costs.get(place, math.nan)
        rows.append(row)
    for model in dict.fromkeys(row["model"] for row in rows):
        recommend([row for row in rows if row["model"] == model], min_agreement)
    return typed("summary", pd.DataFrame(rows, columns=TABLES["summary"].all, dtype=object))


def _groups(table: pd.DataFrame, *further: str) -> dict[tuple[str, ...], pd.DataFrame]:
    return dict(iter(table.groupby(["model", "variant", *further], sort=False)))


def _candidates(latency: pd.DataFrame) -> pd.DataFrame:
    """Rows of the reference and of exported folders, less limits that spare the smallest batch."""
    further = latency["provider"].str.startswith("torch-") & (
        latency["variant"] != REFERENCE_VARIANT
    )
    smallest = latency.groupby(["model", "kind"])["batch_size"].transform("min")
    limits = (latency["status"] == "unsupported") & (latency["batch_size"] > smallest).fillna(False)
    return latency[~further & ~limits]


def _row_keys(export: pd.DataFrame, measured: Iterable[pd.DataFrame]) -> list[tuple[str, str, str]]:
    """Model, variant and provider in order of appearance; PyTorch first within its model."""
    tables = [table.reindex(columns=KEYS) for table in (export, *measured)]
    places = list(pd.concat(tables).itertuples(index=False, name=None))
    models = {model: number for number, (model, *_) in reversed([*enumerate(places)])}
    variants = {place[:2]: number for number, place in reversed([*enumerate(places)])}
    return sorted(
        dict.fromkeys(place for place in places if isinstance(place[2], str)),
        key=lambda place: (models[place[0]], place[1] != REFERENCE_VARIANT, variants[place[:2]]),
    )


def _worst_status(tables: Iterable[pd.DataFrame]) -> tuple[str, str]:
    rows = pd.concat([table[["status", "reason"]] for table in tables])
    for status in ("failed", "unsupported"):
        reasons = rows.loc[rows["status"] == status, "reason"]
        if len(reasons):
            return status, f"{status}: {reasons.iloc[0] or 'no reason was recorded'}"
    return "ok", ""


def _folder_mb(rows: pd.DataFrame) -> float:
    if "folder_bytes" in rows and rows["folder_bytes"].notna().any():
        return float(rows["folder_bytes"].dropna().iloc[0]) / 1e6
    return float(rows["size_bytes"].sum()) / 1e6 if rows["size_bytes"].notna().any() else math.nan


def _parity_passed(rows: pd.DataFrame) -> bool | None:
    if (rows["passed"].eq(False)).any():
        return False
    kinds, passed = set(rows["kind"]), rows["passed"].notna().all()
    complete = passed and ({"query", "document"} <= kinds or kinds == {"caption"})
    return True if complete and rows["status"].eq("ok").all() else None


def quality(
    rows: pd.DataFrame, datasets: set[str], tested: Pairs = MappingProxyType({})
) -> dict[str, float]:
    """Means over datasets, and one test of them; all NaN unless every dataset is there."""
    rows = rows[rows["status"] == "ok"]
    if not datasets or set(rows["dataset"]) != datasets:
        return dict.fromkeys(QUALITY, math.nan)
    judged = rows["ndcg_at_5"].notna()
    return {
        "ndcg_at_5": rows.loc[judged, "ndcg_at_5"].mean(skipna=False),
        "ndcg_at_5_delta": rows.loc[judged, "ndcg_at_5_delta"].mean(skipna=False),
        **_over(rows[judged], _DIFFERENCE, tested, _difference),
        **_over(rows[~judged], AGREEMENT, tested, _agreement),
    }


def _equal(rows: pd.DataFrame, datasets: set[str]) -> dict[str, float]:
    """Share of equal captions and its interval, whose ends are means over datasets, too."""
    if variants := set(rows["variant"]):
        rows = rows[rows["status"] == "ok"]
        if set(rows["dataset"]) == datasets and REFERENCE_VARIANT not in variants:
            return dict(zip(AGREEMENT, rows[[*_EQUAL]].mean().tolist(), strict=True))
    return {}


def _over(
    rows: pd.DataFrame,
    names: Sequence[str],
    tested: Pairs,
    figures: Callable[[Sequence[Pair]], Sequence[float | None]],
) -> dict[str, float]:
    """Figures of one dataset, which are its own, or of several from all their queries.

    Those of several are missing unless each dataset's queries are known.
    """
    if len(rows) == 1:
        return rows.reindex(columns=[*names]).astype(float).iloc[0].to_dict()
    rows = rows.reindex(columns=[*PLACE, "embeddings"]).sort_values("dataset")
    places = rows.itertuples(index=False, name=None)
    found = [tested.get((*place, form or FULL)) for *place, form in places]
    known = figures(found) if found and None not in found else None
    return pd.Series(known, index=[*names], dtype=float).to_dict()


def _difference(found: Sequence[Pair]) -> Sequence[float | None]:
    values = [[side["per_query"][HEADLINE] for side in pair[:2]] for pair in found]
    own = [value for ours, _ in values for value in ours.values()]
    others = [theirs[query] for ours, theirs in values for query in ours]
    return difference(own, others, found[0].settings, [len(ours) for ours, _ in values])


def _agreement(found: Sequence[Pair]) -> Sequence[float | None]:
    rankings = ([side["rankings"] for side in pair[:2]] for pair in found)
    compared = zip(rankings, found, strict=True)
    return agreement(*((*sides, pair.documents) for sides, pair in compared))


def _speed(rows: pd.DataFrame, kind: str, batch_size: Any) -> dict[str, float]:
    chosen = (rows["kind"] == kind) & (rows["status"] == "ok")
    if batch_size is not None and not pd.isna(batch_size):
        chosen &= (rows["batch_size"] == batch_size).fillna(False)
    figures = rows[chosen].reindex(columns=[*_SPEED]).astype(float).median()
    return {f"{kind}_{name}": figures[column] for column, name in _SPEED.items()}
