"""The section "Environment and settings": what the figures were measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from colport.base.redaction import redacted
from colport.report import formatting as fmt
from colport.report.section import Material

_LABELS = {
    **{"cpu": "CPU", "instructions": "Instructions", "cores": "Cores", "caches": "Caches"},
    **{"memory_mb": "Memory", "gpu": "GPU", "platform": "Platform", "python": "Python"},
}
_ELSEWHERE = {*_LABELS, "packages", "provider_packages", "runs"}


def section(material: Material) -> dict[str, Any]:
    """Machine, packages and settings; access tokens are blanked."""
    described = redacted(dict(material.run.get("environment") or {}))
    settings = json.loads(json.dumps(material.run.get("settings") or {}, default=str))
    text = yaml.safe_dump(redacted(settings), sort_keys=False, allow_unicode=True, width=88)
    return {
        "environment": _environment_rows(described),
        "packages": _packages(described),
        "settings": text if settings else "",
    }


def _environment_rows(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, label in _LABELS.items():
        value = fmt.listed(described.get(key))
        if key == "memory_mb" and isinstance(value, int | float):
            value = f"{value / 1024:.1f} GiB"
        rows.append((label, "none" if key == "gpu" and value is None else fmt.text(value)))
    further = [key for key in described if key not in _ELSEWHERE]
    return rows + [(fmt.words(key), fmt.text(described[key])) for key in further]


def _packages(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and versions; those of a provider's own Python name the provider."""
    found = dict(described.get("packages") or {})
    for provider, versions in (described.get("provider_packages") or {}).items():
        found |= {f"{name} ({provider})": version for name, version in versions.items()}
    return sorted(found.items())
