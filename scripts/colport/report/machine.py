"""The section "Environment and settings": what the figures were measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from colport.report import formatting as fmt
from colport.report.section import Material, Section


def section(material: Material) -> Section:
    """Machine, packages and settings; access tokens are blanked."""
    environment = fmt.redact(dict(material.run.get("environment") or {}))
    content = {
        "environment": _environment_rows(environment),
        "packages": _packages(environment),
        "settings": _settings(material.run.get("settings")),
    }
    title = "Environment and settings"
    return Section("environment", title, "Environment", "environment.html", content)


def in_words(environment: Mapping[str, Any]) -> str:
    """Processor, cores and GPU in one phrase."""
    environment = fmt.redact(dict(environment))
    parts = [environment.get("cpu"), environment.get("gpu")]
    cores = environment.get("cores")
    if cores:
        parts.insert(1, f"{cores} core{'' if cores == 1 else 's'}")
    return ", ".join(str(part) for part in parts if part)


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = {"cpu": "CPU", "cores": "Cores", "memory_mb": "Memory", "gpu": "GPU"}
    labels |= {"platform": "Platform", "python": "Python"}
    rows = []
    for key, label in labels.items():
        value = environment.get(key)
        if key == "memory_mb" and isinstance(value, int | float):
            rows.append((label, f"{value / 1024:.1f} GiB"))
        else:
            rows.append((label, "none" if key == "gpu" and value is None else fmt.text(value)))
    elsewhere = {*labels, "packages", "provider_packages"}
    further = [key for key in environment if key not in elsewhere]
    return rows + [(key.replace("_", " "), fmt.text(environment[key])) for key in further]


def _packages(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and versions; those of a provider's own Python name the provider."""
    found = dict(environment.get("packages") or {})
    for provider, versions in (environment.get("provider_packages") or {}).items():
        found |= {f"{name} ({provider})": version for name, version in versions.items()}
    return sorted(found.items())


def _settings(settings: Any) -> str:
    if not settings:
        return ""
    plain = json.loads(json.dumps(settings, default=str))
    return yaml.safe_dump(fmt.redact(plain), sort_keys=False, allow_unicode=True, width=88)
