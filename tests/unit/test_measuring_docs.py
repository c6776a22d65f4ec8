"""The page on measuring keeps up with the config and with the tables."""

import re
from pathlib import Path

import yaml

from colport.base.columns import TABLES
from colport.timing.machine import noise

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/measuring.md").read_text()
NAMES = set(re.findall(r"`([a-z0-9_]+)`", PAGE))


def test_every_latency_setting_is_explained():
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    settings = set(schema["properties"]["latency"]["properties"])
    assert settings <= NAMES


def test_every_scenario_column_and_server_setting_is_explained():
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    section = schema["properties"]["scenarios"]["properties"]
    assert set(section["server"]["properties"]) <= NAMES
    identity = {"model", "variant", "provider", "scenario", "kind", "status", "samples", "rate"}
    known = {"p90_ms", "p99_ms", "target_ms", "meets_target"}
    assert set(TABLES["scenarios"].columns) - NAMES - identity <= known


def test_every_measured_column_is_explained():
    measured = {
        name for name in TABLES["latency"].all if name.endswith(("_ms", "_mb")) or "speedup" in name
    }
    measured |= {"mean_cosine", "min_cosine", "joules_per_input"}
    # Spelt out as a range, or what their names say.
    ranges = {f"p{p}{end}_ms" for p in (90, 95, 99) for end in ("", "_low", "_high")}
    assert measured - NAMES <= {*ranges, "mean_ms", "min_ms", "max_ms"}


def test_the_limits_of_noise_are_those_of_the_code():
    text = " ".join(PAGE.split())
    assert f"less than {noise.MAX_BURST:.0%} of the CPU is in use" in text
    assert f"above the number of cores by more than {noise.MAX_EXTRA_LOAD:g})" in text
    assert f"more than {noise.MAX_STEAL:.0%} of the CPU time to other guests" in text
    assert f"other processes took more than {noise.MAX_OTHERS:.0%}" in text
