"""What a config need not say: what is defined for every run, and what the demo chooses.

Snakemake merges config files so: mappings are merged, anything else is replaced. From the lowest:

1. ready-made variants, and a provider of each type, by the name of its type;
2. ``config/datasets.yaml``, and ``models``, ``datasets`` and ``embeddings`` of
   ``config/config.yaml``: names to choose from;
3. the rest of ``config/config.yaml``, the demo's choice of what runs and its short settings, unless
   the user says what runs with ``run: models``;
4. the working directory's own files of these names, ``--configfile`` and ``--config``.

Settings that nobody states have the defaults of the schema (:func:`.config.validated`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from colport.pipeline import config as configuration
from colport.pipeline import variants
from colport.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[3]
"""Folder of the Snakefile, where the library is not installed apart from it."""

DATASETS = "config/datasets.yaml"
_FILES = (DATASETS, "config/config.yaml")


def complete(config: Mapping[str, Any], base: Path | str) -> dict[str, Any]:
    """A user's config with all that lies below it, not yet checked.

    Args:
        config: What the user states, perhaps nothing.
        base: Folder of the Snakefile.

    Raises:
        ConfigError: A file there is missing, is not YAML, or holds no mapping.
    """
    datasets, demo = (configuration.load(Path(base, name)) for name in _FILES)
    if isinstance(run := config.get("run"), Mapping) and "models" in run:
        demo = {key: demo[key] for key in ("models", "datasets", "embeddings") if key in demo}
    library = {"variants": variants.ready_made(), "providers": {name: {} for name in PROVIDERS}}
    return reduce(_over, (library, datasets, demo, config), {})


def own_files(base: Path | str) -> list[str]:
    """The working directory's files under the names of ours, but for links to ours and copies."""
    found = ((name, Path(base, name)) for name in _FILES if Path(name).is_file())
    return [name for name, ours in found if Path(name).read_bytes() != ours.read_bytes()]


def stated(files: Iterable[Path | str], base: Path | str) -> dict[str, Any]:
    """What a user states with ``snakemake --configfile FILES`` in the working directory.

    Raises:
        ConfigError: A file is missing, is not YAML, or holds no mapping.
    """
    return reduce(_over, map(configuration.load, (*own_files(base), *files)), {})


def _over(below: Any, value: Any) -> Any:
    """A value laid over another one; mappings are copies."""
    if not isinstance(value, Mapping):
        return value
    below = below if isinstance(below, Mapping) else {}
    return {**below, **{key: _over(below.get(key), item) for key, item in value.items()}}
