"""Tables behind the five: errors by input, forms of embeddings, published scores, a run's jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from colport.base.columns import TABLES, row
from colport.base.errors import ArtifactError, read_of
from colport.base.names import FULL
from colport.scoring.details import pairs
from colport.scoring.metrics import GAINS
from colport.tables import KEYS, flatten, typed
from colport.tables.summary import quality

_TOLD = {"seconds": "s", "cpu_seconds": "cpu_time", "peak_rss_mb": "max_rss"}
"""Columns of ``stages.csv`` to Snakemake's."""


def parity_inputs(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``parity_inputs.csv``: each input's smallest cosine to PyTorch over tokens and batch sizes.

    Args:
        records: Parity records; those that are unsupported have no rows.
    """
    rows = []
    for record in records:
        found = record.get("input_min_cosine", {})
        for of_kind in record["rows"]:
            place = {name: of_kind[name] for name in (*KEYS, "kind")}
            rows += [
                row("parity_inputs", **place, input=number, min_cosine=cosine)
                for number, cosine in enumerate(found.get(of_kind["kind"], []))
            ]
    return pd.DataFrame(rows, columns=TABLES["parity_inputs"].columns)


def embeddings(retrieval: pd.DataFrame, records: Sequence[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Each form of embeddings over all datasets of a model, the full ones included.

    Args:
        retrieval: ``retrieval.csv``; without smaller forms in it the result has no rows.
        records: What it was made from. Without them several datasets have no ``p_value``.

    Returns:
        Means over datasets, missing unless each of them was scored; ``p_value`` as in the summary.
    """
    rows, tested = [], pairs(records)
    if not set(retrieval.get("embeddings", [])) <= {"", FULL}:
        datasets = retrieval.groupby("model")["dataset"].agg(set)
        keys = [*KEYS, "embeddings"]
        scored = retrieval[(retrieval["embeddings"] != "") & (retrieval["status"] == "ok")]
        for place, found in scored.groupby(keys, sort=False):
            row = dict(zip(keys, place, strict=True))
            row |= found.reindex(columns=["bytes_per_document", "top10_overlap"]).mean().to_dict()
            rows.append(row | quality(found, datasets[row["model"]], tested))
    return typed("embeddings", pd.DataFrame(rows, columns=TABLES["embeddings"].all, dtype=object))


def published(
    intervals: pd.DataFrame, stated: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> pd.DataFrame:
    """``published.csv``: a run's scores beside published ones, and means over whole benchmarks.

    The interval of a mean is made from those of its datasets, whose queries are independent (Zou
    and Donner, "Construction of confidence intervals about effect measures", Statistics in Medicine
    27, 2008).

    Args:
        intervals: ``retrieval_intervals.csv``.
        stated: By model and benchmark ``metric``, ``source``, ``scores`` by dataset and ``of``, the
            number of datasets that the published mean is of.
    """
    rows = []
    for place, own in intervals.groupby(KEYS, sort=False):
        for benchmark, found in stated.get(place[0], {}).items():
            metric, scores = found["metric"], pd.Series(found["scores"], name="published")
            beside = own[own["metric"] == metric].set_index("dataset").join(scores, how="inner")
            beside = beside[["mean", "low", "high", "published"]].astype(float)
            if len(beside) == found["of"] > 1:
                mean, low, high, theirs = beside.mean()
                below, above = (
                    float(np.sqrt(((beside["mean"] - beside[end]) ** 2).sum()) / len(beside))
                    for end in ("low", "high")
                )
                beside.loc[f"mean of {len(beside)}"] = mean, mean - below, mean + above, theirs
            named = dict(zip(KEYS, place, strict=True), benchmark=benchmark, metric=metric)
            named |= {"gain": GAINS.get(metric, "")}
            for dataset, (score, low, high, theirs) in beside.iterrows():
                figures = {"score": score, "score_low": low, "score_high": high}
                figures |= {"published": theirs, "published_delta": score - theirs}
                given = {**named, **figures, "dataset": dataset, "source": found["source"]}
                rows.append(row("published", **given))
    return typed("published", pd.DataFrame(rows, columns=TABLES["published"].columns))


def stages(files: Iterable[Path | str]) -> pd.DataFrame:
    """``stages.csv`` from Snakemake's benchmark files, one row a job.

    Args:
        files: ``…/benchmarks/{stage}/{job}.tsv``. A job too short to be sampled has no memory.

    Raises:
        ArtifactError: A file is not Snakemake's.
    """
    parts, damaged = [], (KeyError, ValueError)
    for file in map(Path, files):
        with read_of(ArtifactError, file, "is not a benchmark of Snakemake's", damaged):
            told = pd.read_csv(file, sep="\t", na_values=["-"])
            figures = {name: pd.to_numeric(told[column]) for name, column in _TOLD.items()}
        place = f"/{file.with_suffix('')}".rpartition("/benchmarks/")[2]
        stage, _, job = place.removeprefix("/").partition("/")
        parts.append(pd.DataFrame({"stage": stage, "job": job, **figures}))
    return pd.concat(parts, ignore_index=True) if parts else flatten("stages", [])
