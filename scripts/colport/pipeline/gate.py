"""What makes a run fail once its report is written: a failed parity, or a failed measurement."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from colport.base.errors import ParityError, RunError
from colport.base.names import is_peer


def failures(table: pd.DataFrame) -> list[str]:
    """One line for each failed row of a table: which row, and why."""
    labels = [name for name in ("model", "variant", "provider", "dataset", "kind") if name in table]
    # A peer's failure is its result, not this run's.
    failed = table[(table["status"] == "failed") & ~table["variant"].map(is_peer).astype(bool)]
    return list(
        dict.fromkeys(
            f"{' '.join(str(row[name]) for name in labels)} ({row['reason']})"
            for _, row in failed.iterrows()
        )
    )


def check(tables: Mapping[str, pd.DataFrame], *, allow_failed_parity: bool) -> list[str]:
    """Lines of the failed parity rows that the config allows.

    Raises:
        RunError: A row of another table failed.
        ParityError: A parity failed and the config does not allow it.
    """
    for name in ("export", "retrieval", "latency"):
        if failed := failures(tables[name]):
            raise RunError(f"{name} failed: {'; '.join(failed)}")
    failed = failures(tables["parity"])
    if failed and not allow_failed_parity:
        raise ParityError(
            f"parity failed: {'; '.join(failed)}. "
            "Raise the variant's tolerance, or set run.allow_failed_parity: true to accept."
        )
    return failed
