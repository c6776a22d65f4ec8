"""Latency of one model on one provider: PyTorch and every variant, compared in one run.

Several inference sessions in one process spin against each other, and a machine's speed drifts
within minutes. So each contender has a process of its own, only one of them works at a time, and
they take turns in short blocks over several rounds. No sample is thrown away.

The worker (``python -m colport.timing.worker.worker``) is started by :func:`measure`; it is not
imported here, so that it starts with nothing but what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colport.timing.settings import Case, Contender, Inputs, LatencySettings

if TYPE_CHECKING:
    from colport.timing.runner import measure

__all__ = [
    "Case",
    "Contender",
    "Inputs",
    "LatencySettings",
    "measure",
]


def __getattr__(name: str) -> Any:
    """Load the measuring side on first use: the worker must not carry it in its memory."""
    if name == "measure":
        from colport.timing.runner import measure

        return measure
    raise AttributeError(f"module 'colport.timing' has no attribute {name!r}")
