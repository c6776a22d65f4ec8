"""The section "Environment and settings": what the figures were measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from colport.base import machine
from colport.base.redaction import redacted
from colport.report import formatting as fmt
from colport.report.section import Material, Section


def section(material: Material) -> Section:
    """Machine, packages and settings; access tokens are blanked."""
    described = redacted(dict(material.run.get("environment") or {}))
    content = {
        "environment": _environment_rows(described),
        "packages": _packages(described),
        "settings": _settings(material.run.get("settings")),
    }
    title = "Environment and settings"
    return Section("environment", title, "Environment", "environment.html", content)


def in_words(described: Mapping[str, Any]) -> str:
    """See :func:`colport.base.machine.in_words`; access tokens are blanked."""
    return machine.in_words(redacted(dict(described)))


def _environment_rows(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = {"cpu": "CPU", "instructions": "Instructions", "cores": "Cores", "caches": "Caches"}
    labels |= {"memory_mb": "Memory", "gpu": "GPU", "platform": "Platform", "python": "Python"}
    rows = []
    for key, label in labels.items():
        value = described.get(key)
        if isinstance(value, Mapping):
            value = [f"{name} {size}" for name, size in value.items()]
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if key == "memory_mb" and isinstance(value, int | float):
            rows.append((label, f"{value / 1024:.1f} GiB"))
        else:
            rows.append((label, "none" if key == "gpu" and value is None else fmt.text(value)))
    elsewhere = {*labels, "packages", "provider_packages"}
    further = [key for key in described if key not in elsewhere]
    return rows + [(key.replace("_", " "), fmt.text(described[key])) for key in further]


def _packages(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and versions; those of a provider's own Python name the provider."""
    found = dict(described.get("packages") or {})
    for provider, versions in (described.get("provider_packages") or {}).items():
        found |= {f"{name} ({provider})": version for name, version in versions.items()}
    return sorted(found.items())


def _settings(settings: Any) -> str:
    if not settings:
        return ""
    plain = json.loads(json.dumps(settings, default=str))
    return yaml.safe_dump(redacted(plain), sort_keys=False, allow_unicode=True, width=88)
