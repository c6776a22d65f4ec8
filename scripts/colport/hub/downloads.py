"""Files of a Hub repository, through the Hub client's cache.

The client itself waits and tries again on HTTP 408, 429 and 5xx, and goes on where a transfer broke
off. Here a whole fetch is tried again after what only time mends, and every failure is one phrase
without addresses, which may be signed.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from colport.base.errors import HubError

ATTEMPTS = 3
"""How often a fetch is tried that ends in a time-out, a broken transfer or a server's error."""

_WAIT_SECONDS = 2.0  # before the second attempt, twice as long before each further one
_PASSING = (408, 429, 500, 502, 503, 504)
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


def fetch(
    repository: str,
    revision: str,
    patterns: Sequence[str],
    repo_type: Literal["model", "dataset"] = "model",
    is_cached: bool = False,
) -> Path:
    """The folder of a revision in the Hub's cache, the files of some patterns in it.

    Args:
        repository: Hub id.
        revision: Commit, tag or branch.
        patterns: Shell patterns of the files to fetch.
        repo_type: What kind of repository it is.
        is_cached: Look in the cache alone.

    Raises:
        HubError: The files cannot be fetched and are not in the cache. What was fetched is kept.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ModuleNotFoundError as error:
        raise HubError(f"needs {error.name}; run `pip install huggingface_hub`") from error

    asked = {"repo_type": repo_type, "revision": revision, "allow_patterns": [*patterns]}
    asked["local_files_only"] = is_cached
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(snapshot_download(repository, **asked))
        except (errors.HTTPError, OSError, ValueError) as error:
            if attempt == ATTEMPTS or not _passes(error):
                raise HubError(_reason(error)) from error
        time.sleep(_WAIT_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from huggingface_hub import errors

    number = getattr(error, "errno", None)
    if isinstance(error, errors.LocalEntryNotFoundError) or number in _OF_THE_DISK:
        return False
    if (status := _status(error)) is not None:
        return status in _PASSING
    return isinstance(error, errors.HTTPError | OSError)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "is gated; accept its terms on its page and set HF_TOKEN, or run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or the token may not see it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the Hub cannot be reached and its cache does not hold this revision"
    if (code := getattr(error, "errno", None)) in _OF_THE_DISK:
        return f"the Hub's cache cannot be written ({errno.errorcode[code]}: {error.strerror})"
    if (status := _status(error)) is not None:
        later = "; run again later, what was fetched is kept" if status in _PASSING else ""
        return f"the Hub answered with HTTP {status}{later}"
    if isinstance(error, errors.HTTPError | OSError):
        return (
            f"the download broke off {ATTEMPTS} times ({type(error).__name__}); "
            "run again, what was fetched is kept"
        )
    return f"the Hub client refuses it ({type(error).__name__})"


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
