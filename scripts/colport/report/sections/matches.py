"""The section "What matched": the explained scores whose pictures the page has room for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from colport.explain.picture import CHANGE, HEAT, colour_bar
from colport.explain.selection import DAMAGED
from colport.report.section import Material

_MAX_BYTES = 2_000_000  # of pictures; the page is to stay below 5 MB


def section(material: Material) -> dict[str, Any] | None:
    """Heat maps of what matched, where the run explained any.

    Returns:
        ``records``: those with anything to say, each with its ``figures`` that are shown and what
        prompt and augmentation tokens have ``added`` to PyTorch's score; ``further``: figures that
        would make the page too large.
    """
    records, used, further = [], 0, 0
    for record in material.explained:
        figures = []
        for figure in record["figures"]:
            used += _bytes_of(figure)
            if used <= _MAX_BYTES:
                figures.append({**figure, "added": _added(figure)})
        further += len(record["figures"]) - len(figures)
        if figures or record["left_out"] or record["reason"]:
            records.append({**record, "figures": figures})
    bars = {"heat": _bar(HEAT), "change": _bar(CHANGE)}
    found = {"records": records, "further": further, "bars": bars, "damaged": DAMAGED}
    return found if records else None


def _added(figure: Mapping[str, Any]) -> float:
    tokens = zip(figure["contenders"][0]["similarities"], figure["tokens"], strict=True)
    return sum(similarity for similarity, token in tokens if token["role"] != "query")


def _bar(palette: Sequence[str]) -> str:
    stream = BytesIO()
    colour_bar(palette).save(stream, "PNG")
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"


def _bytes_of(figure: Mapping[str, Any]) -> int:
    pictures = [
        picture or ""
        for contender in figure["contenders"]
        for picture in (*contender["pictures"], contender["change"])
    ]
    return len(figure["page"]) + sum(map(len, pictures))
