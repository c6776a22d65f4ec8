"""The section "What captions say": the same pictures' captions by PyTorch and each variant."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Any

import pandas as pd

from colport.base.names import REFERENCE_VARIANT
from colport.report.section import PLACE, Material, namer

EXAMPLES = 8
"""Pictures of each model and dataset: those first whose captions differ from PyTorch's."""

_CAPTION = ["model", "dataset", "item"]


def section(material: Material) -> dict[str, Any] | None:
    """Captions side by side, words that are not PyTorch's marked.

    Returns:
        ``examples``: heading to pictures, each with its ``item``, PyTorch's ``reference`` and
        variants' ``captions``: ``name``, ``equal``, and ``parts`` (text, and whether PyTorch has
        it). ``None`` without captions.
    """
    items = material.tables["caption_items"]
    is_reference = items["variant"] == REFERENCE_VARIANT
    reference = items.loc[is_reference, [*_CAPTION, "caption"]].drop_duplicates(_CAPTION)
    found = items[~is_reference].merge(reference, on=_CAPTION, suffixes=("", "_reference"))
    examples = {
        f"{model} on {dataset}": _pictures(rows)
        for (model, dataset), rows in found.groupby(["model", "dataset"], sort=False)
    }
    return {"examples": examples} if examples else None


def _pictures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    differs = rows["caption"] != rows["caption_reference"]
    order = (
        differs.groupby(rows["item"], sort=False).sum().sort_values(ascending=False, kind="stable")
    )
    name = namer(rows)
    return [
        {
            "item": item,
            "reference": own["caption_reference"].iloc[0],
            "captions": [
                {
                    "name": name(*row[[*PLACE]]),
                    "parts": _parts(row["caption_reference"], row["caption"]),
                    "equal": row["caption"] == row["caption_reference"],
                }
                for _, row in own.iterrows()
            ],
        }
        for item, own in ((item, rows[rows["item"] == item]) for item in order.index[:EXAMPLES])
    ]


def _parts(reference: str, caption: str) -> list[tuple[str, bool]]:
    """A caption's words and blanks in runs, each with whether PyTorch's has it there."""
    words = [re.findall(r"\s+|\S+", text) for text in (reference, caption)]
    blocks = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    return [
        ("".join(words[1][low:high]), tag == "equal")
        for tag, _, _, low, high in blocks
        if high > low
    ]
