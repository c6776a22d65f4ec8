"""What failed or is unsupported, and why: the same reason is told once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from colport.base.names import CONTROL
from colport.report import formatting as fmt
from colport.report.section import Material
from colport.tables import KEYS

_STAGES = ("export", "parity", "retrieval", "latency", "scenarios")
_PLACE = ["stage", *KEYS]
_FURTHER = ["dataset", "kind"]
"""What is told of the rows of a single stage."""

_NOTHING = ("", fmt.MISSING, CONTROL)


def section(material: Material) -> dict[str, Any]:
    """What failed or is unsupported, and rows that were compared and lie outside the tolerance."""
    parity = material.tables["parity"]
    failed = parity[parity["passed"].eq(False).fillna(False).astype(bool)]
    return {"problems": find_problems(material.tables), "failed_parity": failed.to_dict("records")}


def find_problems(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Failures first, then what is unsupported, each in the order of the stages.

    Returns:
        ``status`` and ``reason``, the number of ``rows`` that have them, and ``facts``: names for
        each kind of place that is known.
    """
    columns = ["status", "reason", *_PLACE, *_FURTHER]
    rows = pd.concat(
        tables[stage].assign(stage=stage).reindex(columns=columns).astype(object)
        for stage in _STAGES
    )
    rows = rows[~rows["status"].isin(["ok", ""])].fillna("")
    rows["provider"] = rows["provider"].map(fmt.provider)
    problems = []
    for (status, reason), found in rows.groupby(["status", "reason"], sort=False):
        keys = [*_PLACE, *(_FURTHER if found["stage"].nunique() == 1 else ())]
        places = {key: [n for n in found[key].unique() if n not in _NOTHING] for key in keys}
        facts = {key: names for key, names in places.items() if names}
        problems.append({"status": status, "reason": reason, "rows": len(found), "facts": facts})
    return sorted(problems, key=lambda problem: problem["status"] != "failed")
