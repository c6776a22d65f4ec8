"""The section "What was lost": errors of embeddings by input, changes of scores by query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from colport.base.names import PLURALS, REFERENCE_VARIANT
from colport.report import formatting as fmt
from colport.report.charts import Bar, Chart, ChartTable, Dot, Lane, LegendEntry, lanes, legend
from colport.report.charts.lanes import LEFT, RIGHT, Axis
from colport.report.charts.scales import linear, logarithmic
from colport.report.section import MAX_MODELS, ChartGroup, Material, Section, chart_section, undrawn

MAX_LANES = 24
LEAST_ERROR = 1e-8
"""Smaller errors are rounding of float32 and stand in the first bin."""

_BINS_PER_DECADE = 4
_STEP = 0.05
_PLACE = ("variant", "provider")
_ERROR_COLUMNS = (*_PLACE, "kind", "error_from", "error_to", "inputs")
_DIFFERENCE_COLUMNS = (*_PLACE, "difference", "queries", "examples")
_INTRO = (
    "Errors: how far the worst token embedding of each input lies from PyTorch's, as "
    "1 \N{MINUS SIGN} cosine: further left is better, the stroke is the tolerance; from the "
    "inputs of the parity check. "
    "Changes: how much NDCG@5 of each query differs from PyTorch's: discs right of the dashes are "
    "gains, left of them losses, and their area is the number of queries, all judged ones."
    " Queries that did not change are not drawn."
)


def section(material: Material) -> Section | None:
    """Distributions behind the parity and the retrieval table."""
    errors, differences = material.table("parity_inputs"), paired(material)
    marks = legend(str(name) for name in material.tables["summary"]["variant"])
    models = [
        str(name)
        for name in material.tables["summary"]["model"].unique()
        if any(len(table) and (table["model"] == name).any() for table in (errors, differences))
    ]
    groups = []
    for number, model in enumerate(models[:MAX_MODELS]):
        charts = []
        if len(errors) and len(own := errors[errors["model"] == model]):
            limits = _limits(material.tables["parity"], model)
            charts.append(_error_chart(f"errors-{number}", model, own, marks, limits))
        if len(differences) and len(own := differences[differences["model"] == model]):
            charts.append(_difference_chart(f"differences-{number}", model, own, marks))
        groups.append(ChartGroup(model, charts))
    note = undrawn(pd.DataFrame({"model": models}))
    return chart_section("losses", "What was lost", "Losses", _INTRO, groups, note=note)


def paired(material: Material) -> pd.DataFrame:
    """Each query's difference in NDCG@5 to PyTorch on the same dataset, variants only."""
    queries = material.table("retrieval_queries")
    if queries.empty:
        return queries
    keys = ["model", "dataset", "query"]
    reference = queries[queries["variant"] == REFERENCE_VARIANT][[*keys, "ndcg_at_5"]]
    found = queries[queries["variant"] != REFERENCE_VARIANT].merge(
        reference.drop_duplicates(keys), on=keys, suffixes=("", "_reference")
    )
    found["difference"] = found["ndcg_at_5"] - found["ndcg_at_5_reference"]
    return found[found["difference"].notna()]


def _name(place: Sequence[Any], several: bool) -> str:
    variant, provider = place[:2]
    return f"{variant} on {fmt.provider(provider)}" if several else str(variant)


def _colour(marks: Mapping[str, LegendEntry], variant: Any) -> str:
    return marks[variant].colour if variant in marks else "c0"


def _limits(parity: pd.DataFrame, model: str) -> dict[str, float]:
    """Largest error that each variant's tolerance allows."""
    limits = {}
    for row in parity[parity["model"] == model].to_dict("records"):
        if found := re.search(r"min_cosine>=([\d.]+)", row["tolerance"]):
            limits[row["variant"]] = 1 - float(found[1])
    return limits


def _error_chart(
    key: str,
    model: str,
    rows: pd.DataFrame,
    marks: Mapping[str, LegendEntry],
    limits: Mapping[str, float],
) -> Chart:
    errors = (1 - rows["min_cosine"].astype(float)).clip(lower=LEAST_ERROR, upper=2.0)
    first = np.floor(np.log10(errors.min()))
    last = np.ceil(np.log10(max(errors.max(), *limits.values(), 10 * LEAST_ERROR)))
    edges = np.logspace(first, last, round((last - first) * _BINS_PER_DECADE) + 1)
    several = rows["provider"].nunique() > 1
    records: list[dict[str, Any]] = []
    drawn = []
    groups = rows.assign(error=errors).groupby([*_PLACE, "kind"], sort=False)
    for place, found in list(groups)[:MAX_LANES]:
        counts, _ = np.histogram(found["error"], edges)
        bars = []
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            if count:
                height = float(count / counts.max())
                colour = _colour(marks, place[0])
                bars.append(Bar(low, high, colour, len(records), height))
                bin_row = (*place, low, high, int(count))
                records.append(dict(zip(_ERROR_COLUMNS, bin_row, strict=True)))
        median, worst = found["error"].median(), found["error"].max()
        plural = PLURALS.get(place[2], place[2])
        drawn.append(
            Lane(
                f"{_name(place, several)}, {plural}",
                f"median {fmt.scientific(median)}, worst {fmt.scientific(worst)}",
                bars,
                limit=limits.get(place[0]) if limits.get(place[0], 0) > LEAST_ERROR else None,
            )
        )
    scale = logarithmic(edges[0], edges[-1], LEFT, RIGHT, pad=0.0, show=_power)
    axis = Axis(scale, "1 \N{MINUS SIGN} cosine of an input's worst token", lane_height=22.0)
    table = ChartTable.of(records, _ERROR_COLUMNS)
    return lanes(key, model, "Errors of embeddings, inputs by size of error", axis, drawn, table)


def _power(value: float) -> str:
    return "10" + fmt.scientific(value).partition("10")[2]


def _difference_chart(
    key: str, model: str, rows: pd.DataFrame, marks: Mapping[str, LegendEntry]
) -> Chart:
    several = rows["provider"].nunique() > 1
    rows = rows.assign(bin=(rows["difference"] / _STEP).round() * _STEP)
    # Nothing that differs at all is counted as unchanged.
    tiny = (rows["difference"] != 0) & (rows["bin"] == 0)
    rows.loc[tiny, "bin"] = np.sign(rows.loc[tiny, "difference"]) * _STEP
    groups = list(rows.groupby(list(_PLACE), sort=False))[:MAX_LANES]
    changed = rows[rows["bin"] != 0].groupby([*_PLACE, "bin"]).size()
    largest = changed.max() if len(changed) else 1
    records: list[dict[str, Any]] = []
    drawn = []
    for place, found in groups:
        dots = []
        for value, same in found.groupby("bin"):
            if value:  # what did not change would dwarf what did; it is told in words
                radius = max(3.0, 9.0 * (len(same) / largest) ** 0.5)
                dots.append(Dot(float(value), radius, _colour(marks, place[0]), len(records)))
            examples = ", ".join(map(str, same["query"].head(3))) + (" …" if len(same) > 3 else "")
            bin_row = (*place, float(value), len(same), examples)
            records.append(dict(zip(_DIFFERENCE_COLUMNS, bin_row, strict=True)))
        worse, better = (found["difference"] < 0).sum(), (found["difference"] > 0).sum()
        figure = f"{worse} worse, {better} better, {len(found) - worse - better} unchanged"
        drawn.append(Lane(_name(place, several), figure, dots))
    reach = max(0.2, rows["bin"].abs().max()) * 1.05
    step = 0.5 if reach > 0.6 else 0.1
    count = int(reach / step)
    ticks = [number * step for number in range(-count, count + 1)]
    scale = linear(-reach, reach, LEFT + 10, RIGHT - 10, ticks)
    axis = Axis(scale, "NDCG@5 of a query, difference to PyTorch", baseline=0.0, lane_height=19.0)
    table = ChartTable.of(records, _DIFFERENCE_COLUMNS)
    return lanes(key, model, "Queries by change of their NDCG@5", axis, drawn, table)
