"""What a run will take, before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from colport.base import machine
from colport.base.errors import ConfigError
from colport.cli.console import say

_UNITS = {"days": 86400, "h": 3600, "min": 60, "s": 1}


def plan(configs: list[Path] | None = None) -> None:
    """Say what a run will take on this machine, before anything starts.

    Of each model: parameters, disk, the memory that its largest job takes at least, and times.
    Times are estimates from how fast this machine multiplies now, good to a factor of two.
    Counted are the variants on the CPU; other providers, peers, scenarios and mteb are not.
    Exit code: 1 if something does not fit, or is of unknown size.

    \b
    Example: colport plan config/vidore.yaml
    """
    from colport.pipeline.forecast import Forecast, product_rate
    from colport.pipeline.plan import Plan
    from colport.report.formatting import parameters, size_bytes, size_mb

    run, faults, spent, disk = Plan.load(configs or []), [], 0.0, 0.0
    run.look()
    rate, free_mb, free = product_rate(), machine.available_mb(), shutil.disk_usage(".").free
    say(f"{machine.in_words(machine.describe())}: {rate / 1e9:.0f} GFLOP/s in fp32")
    there = f"{size_mb(free_mb)} memory and {size_bytes(free)} disk"
    say(f"free: {there}")
    for name in run.models:
        found = Forecast(run, name)
        (needed_mb, stage), seconds = found.largest(), found.seconds(rate)
        spent, disk = spent + sum(seconds.values()), disk + found.fetched + found.written
        say(f"{name}: {parameters(found.parameters)} parameters")
        say(f"    disk    {size_bytes(found.fetched)} fetched, {size_bytes(found.written)} written")
        say(f"    memory  {size_mb(needed_mb)} ({stage})")
        say(f"    time    {', '.join(f'{stage} {_time(each)}' for stage, each in seconds.items())}")
        faults += [f"{stage} of {name} takes {size_mb(needed_mb)} memory"] * (needed_mb > free_mb)
    say(f"in all: about {_time(spent)}, {size_bytes(disk)} disk; CPU only, no peers, no scenarios")
    faults += [f"its files take {size_bytes(disk)} disk"] * (disk > free)
    if faults:
        raise ConfigError(f"{there} are free, the run does not fit: {', '.join(faults)}.")


def _time(seconds: float) -> str:
    from colport.report.formatting import significant

    unit, length = next(each for each in _UNITS.items() if seconds >= each[1] or each[1] == 1)
    return f"{significant(seconds / length, 2)} {unit}"
