"""Quality against the size of stored embeddings, one row a form: for a table and a chart."""

from __future__ import annotations

from typing import Any

import pandas as pd

from colport.base.columns import TABLES
from colport.base.names import FULL
from colport.tables import typed
from colport.tables.summary import quality


def embeddings_table(retrieval: pd.DataFrame) -> pd.DataFrame:
    """Each form of embeddings over all datasets of a model, the full ones included.

    Args:
        retrieval: ``retrieval.csv``; without smaller forms in it the result has no rows.

    Returns:
        Means over datasets, missing unless each of them was scored; ``p_value`` as in the summary.
    """
    rows: list[dict[str, Any]] = []
    if not set(retrieval.get("embeddings", [])) <= {"", FULL}:
        datasets = retrieval.groupby("model")["dataset"].agg(set)
        keys = ["model", "variant", "provider", "embeddings"]
        scored = retrieval[(retrieval["embeddings"] != "") & (retrieval["status"] == "ok")]
        for place, found in scored.groupby(keys, sort=False):
            row = dict(zip(keys, place, strict=True))
            row |= found.reindex(columns=["bytes_per_document", "top10_overlap"]).mean().to_dict()
            rows.append(row | quality(found, datasets[row["model"]]))
    return typed(
        "embeddings", pd.DataFrame(rows, columns=TABLES["embeddings"].columns, dtype=object)
    )
