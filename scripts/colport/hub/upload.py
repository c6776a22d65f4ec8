"""Upload an exported folder to the Hugging Face Hub.

The token is the Hub client's own: ``HF_TOKEN``, or what ``hf auth login`` stored. It is never read
here, and what the Hub says is shown without addresses, which may be signed.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from colport.base.errors import HubError
from colport.base.redaction import plain
from colport.folder import layouts, manifest

CARD = layouts.README

_OLD_WEIGHTS = "weights*.onnx_data"
_REASONS = {
    401: "the Hub refused the login; set HF_TOKEN to a valid token, or run `hf auth login`",
    403: "the token may not write there; it needs the write permission for this repository",
    404: "there is no such repository or branch, or the token may not see it",
    409: "the repository was changed during the upload; push again",
    413: "a file is larger than the Hub takes",
    429: "the Hub takes no more requests for now; wait some minutes and push again",
}


def check_login() -> None:
    """Refuse early where no token is set.

    Raises:
        HubError: The Hub client has no token, or is set to work offline.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set; the Hub is not asked anything.")
    if get_token() is None:
        raise HubError("no login for the Hub; set HF_TOKEN, or run `hf auth login`.")


def push(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    published: Path | None = None,
    private: bool = False,
    revision: str | None = None,
    quiet: bool = False,
) -> str:
    """Put the files that ``colport.json`` lists, and a model card, into a repository.

    One commit holds all; what the Hub has already is not sent again. Weight files of an earlier
    push that this one does not have are removed.

    Args:
        folder: An exported folder; :func:`colport.folder.manifest.verify` comes first.
        repo_id: ``org/name``; created if it is not there.
        card: Content of ``README.md``.
        published: The folder in another layout, all of whose files are sent in place of its own.
        private: Create it as private; one that is public already is refused.
        revision: Branch, made if it is not there.
        quiet: No progress bars.

    Returns:
        Address of the commit.

    Raises:
        ArtifactError: The folder is not a whole exported folder.
        HubError: The Hub refused, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    found = manifest.read(folder)
    logging.set_verbosity_error()  # its warnings name signed addresses
    if quiet:
        disable_progress_bars()
    api = HfApi(library_name="colport")
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise HubError(f"{repo_id}: exists and is public; make it private on the Hub first.")
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        names = layouts.files(published) if published else [manifest.FILE, *found.files]
        stale = [
            name
            for name in api.list_repo_files(repo_id, revision=revision)
            if fnmatch(name, _OLD_WEIGHTS) and name not in names
        ]
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, str((published or folder) / name)) for name in names),
                CommitOperationAdd(CARD, card.encode()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Upload {found.family} {found.precision} with ColPort",
            revision=revision,
        )
    except HubError:
        raise
    except Exception as error:  # the client, its transports and hf_xet share no base class
        raise HubError(f"{repo_id}: {_reason(error)}.") from error
    return commit.commit_url


def _reason(error: Exception) -> str:
    """What the Hub client raised, in one sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
    if status and cause is not error:  # the store of large files answers for itself
        return f"sending a file failed with status {status}; push again"
    if status >= 500:
        return f"the Hub failed with status {status}; push again later"
    return _REASONS.get(status) or f"the upload failed ({plain(error)})"
