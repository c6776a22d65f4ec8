"""A checkpoint in its own library, as a job opens it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from colport.base.machine import available_mb
from colport.families import registry
from colport.hub import checkpoints


def opened(snakemake: Any, log: logging.Logger, device: str = "cpu") -> Any:
    """See :meth:`colport.families.base.Family.reference`.

    Args:
        snakemake: Of a job with ``checkpoint`` as input, and ``reference`` of the config, whose
            ``memory_mb`` goes before what the job asked for.
        log: Is told where the weights are.
        device: ``cpu`` or ``cuda``.
    """
    resolved = checkpoints.read_record(snakemake.input.checkpoint)
    left = min(available_mb(), snakemake.resources.mem_mb)
    memory = snakemake.params.reference.get("memory_mb", left)
    family = registry.get(resolved["family"])
    reference = family.reference(Path(resolved["folder"]), device, memory)
    log.info("weights: %s", reference.room.note or reference.room.weights)
    return reference
