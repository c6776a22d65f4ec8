"""The parquet files of a published dataset: which they are, and where.

Only the files of the configuration and split that are read are fetched from the Hub. Without the
Hub its cache serves; a local folder in the same layout does, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport.base.errors import DatasetError, HubError
from colport.base.foreign import is_inside, leaves_folder, local, misfit
from colport.hub import downloads

CARD = "README.md"
DEFAULT = "default"
"""Name of the configuration of a dataset that has only one."""

_SCALAR = (str, int, float, bool)
_CARD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_METADATA = re.compile(r"\s*---\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


@dataclass(frozen=True)
class Repository:
    """A dataset's folder and what its card says of it.

    Attributes:
        name: Name of the dataset, for messages.
        folder: Local folder, or the snapshot in the Hub's cache.
        hub: Repository and commit; ``None`` for a local folder.
        configs: Configuration to split to file patterns.
    """

    name: str
    folder: Path
    hub: tuple[str, str] | None
    configs: Mapping[str, Mapping[str, Sequence[str]]]

    @classmethod
    def open(cls, name: str, declaration: Mapping[str, Any]) -> Repository:
        """Find the folder and read its card; no data is fetched yet.

        Raises:
            DatasetError: The folder does not exist, cannot be fetched, or its card is damaged.
        """
        hub = None
        if "path" in declaration:
            folder = local(declaration["path"])
            if not folder.is_dir():
                raise DatasetError(f"{name}: folder {folder} does not exist.")
        else:
            hub = (declaration["hub"], declaration["revision"])
            folder = _fetch(name, hub, [CARD])
        return cls(name, folder, hub, _card_configs(name, folder))

    def config_names(self) -> list[str]:
        """Configurations of the card, or else the folders that hold parquet files."""
        if self.configs:
            return list(self.configs)
        return sorted({file.parent.name for file in self.folder.glob("*/*.parquet")})

    def label(self, config: str | None, split: str) -> str:
        """What messages call one split of one configuration."""
        parts = (self.name, config and f"config {config}", f"split {split}")
        return ", ".join(filter(None, parts))

    def files(self, config: str | None, split: str) -> list[Path]:
        """Parquet files of one split of one configuration (``None`` for the only one).

        Without a card, the files of split ``test`` are ``CONFIG/test*.parquet``, or
        ``data/test*.parquet`` and ``test*.parquet`` where there is one configuration.

        Raises:
            DatasetError: The configuration, the split or a part of it is missing.
        """
        patterns = self._patterns(config, split)
        for pattern in patterns:
            if leaves_folder(pattern):
                raise DatasetError(
                    f"{self.name}: {CARD} names the files {pattern!r}; allowed are files inside "
                    "the dataset's folder."
                )
        if self.hub:
            _fetch(self.name, self.hub, patterns)
        files = sorted({file for pattern in patterns for file in self.folder.glob(pattern)})
        where = self.label(config, split)
        if not files:
            raise DatasetError(
                f"{where}: cannot be read, no file matches {' or '.join(patterns)} in "
                f"{self.folder}{' (the cache of the Hub)' if self.hub else ''}."
            )
        for file in files:
            if not is_inside(self.folder, file.relative_to(self.folder).as_posix()):
                raise DatasetError(f"{where}: {file.name} is a link that leads out of the folder.")
            if file.suffix != ".parquet":
                raise DatasetError(f"{where}: {file.name} is not a parquet file.")
            part = _PART.search(file.name)
            if part and int(part[2]) != len(files):
                raise DatasetError(
                    f"{where}: {len(files)} of {int(part[2])} parts are in {file.parent}; "
                    "all are needed."
                )
        return files

    def _patterns(self, config: str | None, split: str) -> Sequence[str]:
        if not self.configs:
            folders = (f"{config}/",) if config else ("data/", "")
            return [f"{folder}{split}[-.]*parquet" for folder in folders]
        splits = self.configs[config or self._only_config()]
        if split not in splits:
            raise DatasetError(
                f"{self.label(config, split)}: cannot be read; found "
                f"{', '.join(map(repr, splits)) or 'no split'}."
            )
        return splits[split]

    def _only_config(self) -> str:
        if len(self.configs) > 1 and DEFAULT not in self.configs:
            raise DatasetError(
                f"{self.name}: found the configs {', '.join(self.configs)}; schema qa needs one, "
                "schema beir reads corpus, queries and qrels."
            )
        return DEFAULT if DEFAULT in self.configs else next(iter(self.configs))


def _card_configs(name: str, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Configurations of a dataset card: name to split to patterns; empty without any."""
    import yaml

    card = folder / CARD
    if not card.is_file():
        return {}
    try:
        block = _METADATA.match(card.read_text(encoding="utf-8-sig"))
        entries = ((yaml.safe_load(block[1]) if block else None) or {}).get("configs") or []
        # First of all the types: a few lines of YAML can stand for a list of any size.
        if wrong := misfit(entries, [{"config_name?": _SCALAR, "data_files?": object}]):
            raise ValueError(f"configs{wrong}")
        return {
            str(entry.get("config_name", DEFAULT)): _by_split(entry["data_files"])
            for entry in entries
            if entry.get("data_files")
        }
    except (*_CARD_ERRORS, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{name}: {card} has no readable list of configs ({reason}).") from error


def _by_split(data_files: Any) -> dict[str, list[str]]:
    """``data_files`` of a card: patterns, patterns by split, or a list of splits with their paths.

    Raises:
        ValueError: It is anything else, or names a split twice.
    """
    # ``datasets`` calls the split of files without one so.
    places = data_files if isinstance(data_files, dict) else {"train": data_files}
    if is_list := isinstance(data_files, list) and isinstance(data_files[0], dict):
        places = {entry["split"]: entry["path"] for entry in data_files if len(entry) == 2}
    is_wrong = any(misfit(place, str) and misfit(place, [str]) for place in places.values())
    if is_wrong or (is_list and len(places) < len(data_files)):
        raise ValueError("data_files is neither patterns nor patterns by split, each named once")
    return {str(split): [at] if isinstance(at, str) else at for split, at in places.items()}


def _fetch(name: str, hub: tuple[str, str], patterns: Sequence[str]) -> Path:
    repository, revision = hub
    try:
        return downloads.fetch(repository, revision, patterns, "dataset")
    except HubError as error:
        raise DatasetError(f"{name}: {repository}@{revision}: {error}.") from error
