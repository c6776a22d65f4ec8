"""The section "What was lost": errors of embeddings by input, changes of scores by query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from colport.base.names import PLURALS, REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import lanes, scales
from colport.report.charts.chart import Chart
from colport.report.charts.marks import Legend
from colport.report.columns import ShownTable
from colport.report.section import PLACE, Material, drawn, namer

MAX_LANES = 24
LEAST_ERROR = 1e-8
"""Smaller errors are rounding of float32 and stand in the first bin."""

_BINS_PER_DECADE = 4
_STEP = 0.05
_ERROR_COLUMNS = (*PLACE, "kind", "error_from", "error_to", "inputs")
_DIFFERENCE_COLUMNS = (*PLACE, "difference", "queries", "examples")


def section(material: Material) -> dict[str, Any] | None:
    """Distributions behind the parity and the retrieval table."""

    def charts(
        number: int, model: str, errors: pd.DataFrame, differences: pd.DataFrame
    ) -> list[Chart | None]:
        limits = _limits(material.tables["parity"], model)
        return [
            _errors(f"errors-{number}", model, errors, material.marks, limits),
            _differences(f"differences-{number}", model, differences, material.marks),
        ]

    return drawn(material, [material.tables["parity_inputs"], paired(material)], charts)


def paired(material: Material) -> pd.DataFrame:
    """Each query's difference in NDCG@5 to PyTorch on the same dataset, variants only."""
    queries = material.tables["retrieval_queries"]
    keys = ["model", "dataset", "query"]
    is_reference = queries["variant"] == REFERENCE_VARIANT
    reference = queries.loc[is_reference, [*keys, "ndcg_at_5"]].drop_duplicates(keys)
    found = queries[~is_reference].merge(reference, on=keys, suffixes=("", "_reference"))
    found["difference"] = found["ndcg_at_5"] - found["ndcg_at_5_reference"]
    return found[found["difference"].notna()]


def _limits(parity: pd.DataFrame, model: str) -> dict[str, float]:
    """Largest error that each variant's tolerance allows."""
    limits = {}
    for row in parity[parity["model"] == model].to_dict("records"):
        if found := re.search(r"min_cosine>=([\d.]+)", row["tolerance"]):
            limits[row["variant"]] = 1 - float(found[1])
    return limits


def _errors(
    key: str, model: str, rows: pd.DataFrame, marks: Legend, limits: Mapping[str, float]
) -> Chart | None:
    if rows.empty:
        return None
    errors = (1 - rows["min_cosine"].astype(float)).clip(lower=LEAST_ERROR, upper=2.0)
    first = np.floor(np.log10(errors.min()))
    last = np.ceil(np.log10(max(errors.max(), *limits.values(), 10 * LEAST_ERROR)))
    edges = np.logspace(first, last, round((last - first) * _BINS_PER_DECADE) + 1)
    name, records, lines = namer(rows), [], []
    groups = rows.assign(error=errors).groupby([*PLACE, "kind"], sort=False)
    for (variant, provider, kind), found in list(groups)[:MAX_LANES]:
        counts, _ = np.histogram(found["error"], edges)
        bars = []
        for number in np.flatnonzero(counts):
            place, height = edges[number : number + 2], float(counts[number] / counts.max())
            bars.append(lanes.Bar(*place, marks[variant].colour, len(records), height))
            records.append((variant, provider, kind, *place, int(counts[number])))
        median, worst = found["error"].median(), found["error"].max()
        limit = limits.get(variant, 0)
        lines.append(
            lanes.ChartLane(
                f"{name(variant, provider)}, {PLURALS.get(kind, kind)}",
                f"median {fmt.scientific(median)}, worst {fmt.scientific(worst)}",
                bars,
                limit=limit if limit > LEAST_ERROR else None,
            )
        )
    scale = scales.logarithmic(edges[0], edges[-1], *lanes.ACROSS, pad=0.0, show=_power)
    axis = lanes.Axis(scale, "1 \N{MINUS SIGN} cosine of an input's worst token", lane_height=22.0)
    caption = "Errors of embeddings, inputs by size of error"
    return lanes.chart(key, model, caption, axis, lines, ShownTable.of(records, _ERROR_COLUMNS))


def _power(value: float) -> str:
    return "10" + fmt.scientific(value).partition("10")[2]


def _differences(key: str, model: str, rows: pd.DataFrame, marks: Legend) -> Chart | None:
    if rows.empty:
        return None
    rows = rows.assign(bin=(rows["difference"] / _STEP).round() * _STEP)
    # Nothing that differs at all is counted as unchanged.
    tiny = (rows["difference"] != 0) & (rows["bin"] == 0)
    rows.loc[tiny, "bin"] = np.sign(rows.loc[tiny, "difference"]) * _STEP
    changed = rows[rows["bin"] != 0].groupby([*PLACE, "bin"]).size()
    largest = changed.max() if len(changed) else 1
    name, records, lines = namer(rows), [], []
    for place, found in list(rows.groupby(PLACE, sort=False))[:MAX_LANES]:
        dots = []
        for value, same in found.groupby("bin"):
            if value:  # what did not change would dwarf what did; it is told in words
                radius = max(3.0, 9.0 * (len(same) / largest) ** 0.5)
                colour = marks[place[0]].colour
                dots.append(lanes.Dot(float(value), radius, colour, len(records)))
            examples = ", ".join(map(str, same["query"].head(3))) + (" …" if len(same) > 3 else "")
            records.append((*place, float(value), len(same), examples))
        worse, better = (found["difference"] < 0).sum(), (found["difference"] > 0).sum()
        figure = f"{worse} worse, {better} better, {len(found) - worse - better} unchanged"
        lines.append(lanes.ChartLane(name(*place), figure, dots))
    reach = max(0.2, rows["bin"].abs().max()) * 1.05
    step = 0.5 if reach > 0.6 else 0.1
    count = int(reach / step)
    ticks = [number * step for number in range(-count, count + 1)]
    scale = scales.linear(-reach, reach, lanes.LEFT + 10, lanes.RIGHT - 10, ticks)
    label = "NDCG@5 of a query, difference to PyTorch"
    axis = lanes.Axis(scale, label, baseline=0.0, lane_height=19.0)
    table = ShownTable.of(records, _DIFFERENCE_COLUMNS)
    return lanes.chart(key, model, "Queries by change of their NDCG@5", axis, lines, table)
