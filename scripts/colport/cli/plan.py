"""What a run will take, before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from colport.base import machine
from colport.base.errors import ColPortError, ConfigError
from colport.cli.console import say
from colport.report.formatting import parameters, significant, size_bytes, size_mb

_UNITS = {"days": 86400, "h": 3600, "min": 60, "s": 1}


def plan(configs: list[Path] | None = None) -> None:
    """Say what a run will take on this machine, before anything starts.

    For each model: its parameters, what is fetched and written on disk, the memory that its largest
    job takes at least, and times. The machine is asked how fast it multiplies, which takes a
    second; times are estimates, good to a factor of two, and those of the CPU.
    Exit code: 1 if something cannot fit, or is of unknown size.

    \b
    Example: colport plan config/vidore.yaml
    """
    from colport.pipeline.forecast import Forecast, product_rate
    from colport.pipeline.plan import Plan

    run, rate, faults, spent, disk = Plan.load(configs or []), product_rate(), [], 0.0, 0.0
    free_mb, free = machine.available_mb(), shutil.disk_usage(".").free
    say(f"{machine.in_words(machine.describe())}: {rate / 1e9:.0f} GFLOP/s in fp32")
    say(f"free: {size_mb(free_mb)} of memory, {size_bytes(free)} of disk")
    for name in run.models:
        try:
            found = Forecast(run, name)
        except ColPortError as error:
            faults.append(f"models.{name}: {error}")
            continue
        (needed_mb, stage), seconds = found.largest(), found.seconds(rate)
        spent, disk = spent + sum(seconds.values()), disk + found.fetched + found.written
        say(
            f"{name}: {parameters(found.parameters)} parameters, {size_bytes(found.fetched)} to "
            f"fetch, {size_bytes(found.written)} to write, {size_mb(needed_mb)} of memory "
            f"({stage}); {', '.join(f'{doing} {_time(each)}' for doing, each in seconds.items())}"
        )
        if needed_mb > free_mb:
            faults.append(f"models.{name}: {stage} does not fit into the memory that is free.")
    say(f"all: about {_time(spent)}, {size_bytes(disk)} of disk")
    if disk > free:
        faults.append("The disk of this folder has less free.")
    if faults:
        raise ConfigError(f"this run must not be started here. {' '.join(faults)}")


def _time(seconds: float) -> str:
    unit, length = next(each for each in _UNITS.items() if seconds >= each[1] or each[1] == 1)
    return f"{significant(seconds / length, 2)} {unit}"
