"""Compare the pinned requirement sets with published advisories: ``make audit``.

pip-audit succeeds when it has looked nothing up, so what it skipped is counted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVICES = ("pypi", "osv")
"""Where pip-audit finds advisories; the second is asked if the first knows nothing."""


def audited(requirements: str, service: str) -> list[dict[str, Any]] | str:
    """pip-audit's findings, a dict a package, or why there are none.

    Args:
        requirements: A pinned requirement set with hashes.
        service: One of :data:`SERVICES`.
    """
    with tempfile.TemporaryDirectory() as folder:
        pins, found = Path(folder, "pins.txt"), Path(folder, "found.json")
        pins.write_text(requirements.replace("===", "=="), encoding="utf-8")  # it knows only this
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"),
                *("--requirement", str(pins), "--vulnerability-service", service),
                *("--format", "json", "--output", str(found), "--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.is_file() and found.stat().st_size:
            return json.loads(found.read_text(encoding="utf-8"))["dependencies"]
    return (done.stderr.strip().splitlines() or ["pip-audit gave no answer"])[-1]


def audit(name: str) -> int:
    """Audit one set: 0 nothing known, 1 an advisory, 2 not everything could be looked up."""
    text = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    found: list[dict[str, Any]] | str = []
    for service in SERVICES:
        found = audited(text, service)
        if isinstance(found, list) and any("vulns" in package for package in found):
            break
    if isinstance(found, str):
        print(f"{name}: NOT AUDITED, advisories cannot be looked up here ({found[:200]})")
        return 2
    known = [package for package in found if package.get("vulns")]
    for package in known:
        ids = ", ".join(item["id"] for item in package["vulns"])
        print(f"{name}: {package['name']} {package['version']}: {ids}")
    skipped = [package["name"] for package in found if "vulns" not in package]
    rest = f"; NOT AUDITED: {', '.join(skipped)}" if skipped else ""
    print(f"{name}: {len(found) - len(skipped)} of {len(found)} packages looked up{rest}")
    return 1 if known else 2 if skipped else 0


def main() -> None:
    """Audit the sets that are named, or all."""
    sys.exit(max([audit(name) for name in sys.argv[1:] or ("cpu", "gpu", "dev")], default=0))


if __name__ == "__main__":
    main()
