"""Write the conda files from the pinned requirement sets: ``python envs/make_conda.py``."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
_PIN = re.compile(r"^[A-Za-z0-9._\-\[\]]+={2,3}[^ \\]+( ; [^\\]+)?")


def conda_file(requirements: str) -> str:
    """A conda environment whose packages are the pins of a requirements file."""
    pins = [match[0].strip() for line in requirements.splitlines() if (match := _PIN.match(line))]
    entries = "\n".join(f'      - "{pin.replace(chr(34), chr(39))}"' for pin in pins)
    return (
        "# Made by make_conda.py from the pinned requirement set of the same name.\n"
        "channels:\n  - conda-forge\n"
        "dependencies:\n  - python=3.11\n  - pip\n  - pip:\n" + entries + "\n"
    )


def main() -> None:
    """Write a conda file a set."""
    for name in ("cpu", "gpu", "openvino", "directml", "migraphx"):
        source = HERE / f"{name}.txt"
        source.with_suffix(".yaml").write_text(conda_file(source.read_text()))


if __name__ == "__main__":
    main()
