"""Which families there are, and which of them reads a checkpoint."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path

from colport.base.errors import CheckpointError, chosen
from colport.families.base import Family
from colport.hub.checkpoints import ADAPTER_CONFIG, own_code, read_config

_MODULES = {
    name: file.stem
    for file in Path(__file__).parent.glob("*.py")
    for name in re.findall(
        r'^    name = "([\w-]+)"$', file.read_text(encoding="utf-8"), re.MULTILINE
    )
}
NAMES = tuple(sorted(_MODULES))
"""Each is the ``name`` of a class in a module of this package."""


@cache
def get(name: str) -> Family:
    """The family of that name.

    Raises:
        ConfigError: There is no such family.
    """
    chosen("family", name, dict.fromkeys(NAMES))
    module = import_module(f"{__package__}.{_MODULES[name]}")
    return next(it for it in vars(module).values() if getattr(it, "name", None) == name)()


def detect(folder: Path) -> Family:
    """The family that a checkpoint's own files name.

    Raises:
        CheckpointError: No family reads this checkpoint.
    """
    for name in NAMES:
        family = get(name)
        if family.accepts(folder):
            return family
    config = read_config(folder)  # where there is none, that is the reason
    named = str(config.get("architectures") or config.get("model_type"))[:100]
    if code := own_code(folder / "config.json"):
        named += f", code of its own ({code[:100]}), which is never executed"
    if (folder / ADAPTER_CONFIG).is_file():
        saved = read_config(folder, ADAPTER_CONFIG).get("modules_to_save")
        named += f"; an adapter (modules_to_save: {saved}) is read on a base of its own class"
    raise CheckpointError(
        f"{folder}: no family reads this checkpoint; supported are {', '.join(NAMES)}, and its "
        f"config.json names {named}."
    )


def require(name: str, folder: Path) -> Family:
    """The declared family, once the checkpoint's own files agree with it.

    Raises:
        ConfigError: There is no such family.
        CheckpointError: The checkpoint is of another family.
    """
    family = get(name)
    if not family.accepts(folder):
        found = detect(folder).name
        raise CheckpointError(f"{folder}: is declared as family {name!r} but is {found!r}.")
    return family
