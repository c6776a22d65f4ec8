"""Tables behind the five: errors by input, and what the jobs of a run took."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from colport.base.errors import ArtifactError

INPUT_COLUMNS = ("model", "variant", "provider", "kind", "input", "min_cosine")
"""Columns of ``parity_inputs.csv``: ``input`` counts from 0, in the dataset's order."""

STAGE_COLUMNS = ("stage", "job", "seconds", "cpu_seconds", "peak_rss_mb")
"""Columns of ``stages.csv``."""


def parity_inputs(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """``parity_inputs.csv``: each input's smallest cosine to PyTorch over tokens and batch sizes.

    Args:
        records: Parity records; those that are unsupported have no rows.
    """
    rows = []
    for record in records:
        found = record.get("input_min_cosine", {})
        for row in record["rows"]:
            place = [row[name] for name in INPUT_COLUMNS[:4]]
            rows += [
                (*place, number, cosine) for number, cosine in enumerate(found.get(row["kind"], []))
            ]
    return pd.DataFrame(rows, columns=INPUT_COLUMNS)


def stages(files: Iterable[Path | str]) -> pd.DataFrame:
    """``stages.csv`` from Snakemake's benchmark files, one row a job.

    Args:
        files: ``…/benchmarks/{stage}/{job}.tsv``. A job too short to be sampled has no memory.

    Raises:
        ArtifactError: A file is not Snakemake's.
    """
    rows = []
    for file in map(Path, files):
        with file.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream, delimiter="\t"))
        parts = PurePath(file).with_suffix("").parts
        start = len(parts) - parts[::-1].index("benchmarks") if "benchmarks" in parts else 0
        stage, *job = parts[start:]
        for line in lines:
            try:
                figures = [_number(line[name]) for name in ("s", "cpu_time", "max_rss")]
            except (KeyError, ValueError, TypeError) as error:
                raise ArtifactError(f"{file}: is not a benchmark of Snakemake's.") from error
            rows.append((stage, "/".join(job), *figures))
    return pd.DataFrame(rows, columns=STAGE_COLUMNS)


def _number(text: str) -> float:
    return math.nan if text in ("NA", "-", "") else float(text)
