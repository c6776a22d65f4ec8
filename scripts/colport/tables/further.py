"""Tables behind the five: errors by input, and what the jobs of a run took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from colport.base.columns import TABLES, row
from colport.base.errors import ArtifactError
from colport.tables import empty

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
            place = {name: of_kind[name] for name in ("model", "variant", "provider", "kind")}
            rows += [
                row("parity_inputs", **place, input=number, min_cosine=cosine)
                for number, cosine in enumerate(found.get(of_kind["kind"], []))
            ]
    return pd.DataFrame(rows, columns=TABLES["parity_inputs"].columns)


def stages(files: Iterable[Path | str]) -> pd.DataFrame:
    """``stages.csv`` from Snakemake's benchmark files, one row a job.

    Args:
        files: ``…/benchmarks/{stage}/{job}.tsv``. A job too short to be sampled has no memory.

    Raises:
        ArtifactError: A file is not Snakemake's.
    """
    parts = []
    for file in map(Path, files):
        try:
            told = pd.read_csv(file, sep="\t", na_values=["-"])
            figures = {name: pd.to_numeric(told[column]) for name, column in _TOLD.items()}
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{file}: is not a benchmark of Snakemake's.") from error
        places = file.with_suffix("").parts
        start = len(places) - places[::-1].index("benchmarks") if "benchmarks" in places else 0
        stage, *job = places[start:]
        parts.append(pd.DataFrame({"stage": stage, "job": "/".join(job), **figures}))
    return pd.concat(parts, ignore_index=True) if parts else empty("stages")
