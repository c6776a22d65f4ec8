"""Where the time of a call goes: one stacked bar a variant, geometry only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from colport.report import formatting as fmt
from colport.report.section import Material, Section

LARGEST = 6
"""Operators with a colour of their own; there is one more colour, that of the others."""

MAX_BARS = 8
MAX_MODELS = 12

OTHER = "other"

_WIDTH, _ROW, _BAR, _GAP = 720, 30, 18, 10
_CHARACTER, _LONGEST, _FIGURES = 6.8, 24, 175


@dataclass(frozen=True)
class Segment:
    """One operator's part of a bar."""

    x: float
    width: float
    colour: str
    detail: str


@dataclass(frozen=True)
class Bar:
    """One variant: its name, its parts, and what stands behind them."""

    label: str
    y: int
    segments: list[Segment]
    end: float
    figures: str


@dataclass(frozen=True)
class BarChart:
    """All that the template needs to draw one model."""

    key: str
    model: str
    caption: str
    legend: list[tuple[str, str]]
    bars: list[Bar]
    left: float
    height: int
    width: int = _WIDTH
    row: int = _ROW
    bar: int = _BAR


def section(material: Material) -> Section | None:
    """Bars of operators, where the run was profiled."""
    charts = operator_charts(material.tables.get("operators"))
    title = "Where the time goes"
    content = {"charts": charts}
    return Section("operators", title, title, "operators.html", content) if charts else None


def read_operators(file: Path | str) -> pd.DataFrame:
    """``operators.csv`` as the page shows it."""
    return pd.read_csv(file).astype({"nodes": "Int64"}).fillna({"kind": "", "operator": ""})


def operator_charts(table: pd.DataFrame | None) -> list[BarChart]:
    """A chart a model: its slowest variants in the kind of call that takes longest.

    Args:
        table: ``operators.csv``; ``None`` where nothing was profiled.
    """
    if table is None:
        return []
    measured = table[table["status"] == "ok"]
    models = list(measured.groupby("model", sort=False))[:MAX_MODELS]
    return [
        _chart(f"operators-{number}", str(model), rows)
        for number, (model, rows) in enumerate(models)
    ]


def _chart(key: str, model: str, rows: pd.DataFrame) -> BarChart:
    kind = rows.loc[rows["graph_ms"].idxmax(), "kind"]
    rows = rows[rows["kind"] == kind]
    rows = rows.assign(part_ms=rows["share"] * rows["graph_ms"])
    sums = rows.groupby("operator")["part_ms"].sum().sort_values(ascending=False)
    colours = {name: f"c{number}" for number, name in enumerate(sums.index[:LARGEST], start=1)}
    slowest = rows.drop_duplicates(["variant", "provider"]).nlargest(MAX_BARS, "graph_ms")
    names = [str(name) for name in slowest["variant"]]
    left = min(_LONGEST, max(map(len, names))) * _CHARACTER + _GAP
    scale = (_WIDTH - left - _FIGURES) / slowest["graph_ms"].max()
    bars = [
        _bar(rows[rows["variant"] == name], number * _ROW, left, scale, colours)
        for number, name in enumerate(names)
    ]
    legend = list(colours.items())
    if len(sums) > LARGEST:
        legend.append((OTHER, "c0"))
    return BarChart(
        key=key,
        model=model,
        caption=f"Time of one {kind} in the graph, batch size 1, by operator",
        legend=legend,
        bars=bars,
        left=left,
        height=len(bars) * _ROW,
    )


def _bar(rows: pd.DataFrame, y: int, left: float, scale: float, colours: dict[str, str]) -> Bar:
    first = rows.iloc[0]
    label = str(first["variant"])
    if len(label) > _LONGEST:
        label = label[: _LONGEST - 1] + "…"
    figures = fmt.milliseconds(first["graph_ms"])
    if not fmt.is_missing(first["matmul_share"]):
        figures += f", {first['matmul_share']:.0%} of matmul"
    segments = list(_segments(rows, left, scale, colours))
    return Bar(label, y, segments, left + first["graph_ms"] * scale, figures)


def _segments(
    rows: pd.DataFrame, left: float, scale: float, colours: dict[str, str]
) -> Iterator[Segment]:
    shares = dict(zip(rows["operator"], rows["share"], strict=True))
    parts = {name: shares[name] for name in colours if name in shares}
    others = sum(share for name, share in shares.items() if name not in colours)
    if others:
        parts[OTHER] = others
    total = rows["graph_ms"].iloc[0]
    for name, share in parts.items():
        width = share * total * scale
        detail = f"{name}: {fmt.milliseconds(share * total)}, {share:.0%}"
        yield Segment(left, width, colours.get(name, "c0"), detail)
        left += width
