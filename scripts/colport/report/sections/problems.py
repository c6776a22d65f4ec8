"""What failed or is unsupported, and why: the same reason is told once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from colport.base.names import CONTROL
from colport.base.redaction import redacted
from colport.report import formatting as fmt
from colport.report.section import Material, Section

_STAGES = ("export", "parity", "retrieval", "latency", "scenarios")
_SHOWN_NAMES = 12


@dataclass
class Problem:
    """One status and reason, with all the rows that it was recorded for."""

    status: str
    reason: str
    rows: int = 0
    places: dict[str, dict[str, None]] = field(default_factory=dict)

    def facts(self) -> list[tuple[str, str]]:
        """Label and names, for each kind of place that is known."""
        labels = {"stage": "Stages", "model": "Models", "variant": "Variants"}
        labels |= {"provider": "Providers"}
        if len(self.places["stage"]) == 1:
            labels |= {"dataset": "Datasets", "kind": "Kinds"}
        facts = []
        for key, label in labels.items():
            names = [fmt.provider(name) if key == "provider" else name for name in self.places[key]]
            if names:
                more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
                singular = label[:-1] if len(names) == 1 else label
                facts.append((singular, ", ".join(names[:_SHOWN_NAMES]) + more))
        return facts


def section(material: Material) -> Section:
    """What failed or is unsupported."""
    content = {
        "problems": find_problems(material.tables),
        "failed_parity": failed_parity(material.tables["parity"]),
    }
    title = "Failed or unsupported"
    return Section("problems", title, title, "problems.html", content)


def find_problems(tables: Mapping[str, pd.DataFrame]) -> list[Problem]:
    """Failures first, then what is unsupported, each in the order of the stages."""
    problems: dict[tuple[str, str], Problem] = {}
    for stage in filter(tables.__contains__, _STAGES):
        table = tables[stage]
        for row in table[~table["status"].isin(["ok", ""])].to_dict("records"):
            reason = redacted(row["reason"]) or "No reason was recorded."
            problem = problems.setdefault((row["status"], reason), Problem(row["status"], reason))
            problem.rows += 1
            for key in ("stage", "model", "variant", "provider", "dataset", "kind"):
                name = stage if key == "stage" else row.get(key, "")
                names = problem.places.setdefault(key, {})
                if name not in ("", CONTROL):
                    names[str(name)] = None
    return sorted(problems.values(), key=lambda problem: problem.status != "failed")


def failed_parity(parity: pd.DataFrame) -> list[dict[str, str]]:
    """Rows that were compared and lie outside the tolerance, as texts."""
    rows = parity[parity["passed"].eq(False).fillna(False).astype(bool)]
    return [
        {
            "place": f"{row['model']}, {row['variant']} on {fmt.provider(row['provider'])}",
            "kind": row["kind"],
            "difference": fmt.scientific(row["max_abs_diff"]),
            "cosine": fmt.fixed(5)(row["min_cosine"]),
            "tolerance": fmt.text(row["tolerance"]),
            "reason": redacted(row["reason"]),
        }
        for row in rows.to_dict("records")
    ]
