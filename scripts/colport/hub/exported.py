"""Exported folders by their Hub ids: the files that the manifest of one commit names."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from colport.base.errors import ArtifactError, ConfigError, HubError
from colport.base.foreign import local
from colport.folder import manifest
from colport.hub import downloads
from colport.hub.checkpoints import HUB_ID


def located(place: Path | str, revision: str | None = None) -> Path:
    """Where an exported folder lies: as the path says, or in the Hub's cache once it is fetched.

    Args:
        place: A folder; or, as a text and where there is no such folder, a Hub id ``owner/name``.
        revision: Commit, tag or branch of the Hub's repository, by default ``main``. What it stands
            for when it is asked is the commit that all files are of.

    Raises:
        ConfigError: There is a revision, and no Hub id.
        ArtifactError: The files cannot be fetched and are not in the cache, or are no exported
            folder.
    """
    folder = local(place)
    if folder.exists() or not isinstance(place, str) or not HUB_ID.fullmatch(place):
        if revision is not None:
            raise ConfigError(f"revision: found {revision!r}, but {place} is not from the Hub.")
        return folder
    asked = revision or "main"
    try:
        found = downloads.fetch(place, asked, [manifest.FILE])
        if not (found / manifest.FILE).is_file():
            raise HubError(f"holds no {manifest.FILE}; a checkpoint has to be exported first")
        files = map(escape, manifest.parsed(found).files)
        return downloads.fetch(place, found.name, [manifest.FILE, *files])
    except HubError as error:
        raise ArtifactError(
            f"{place}@{asked}: {error} (and there is no such folder here)."
        ) from error
