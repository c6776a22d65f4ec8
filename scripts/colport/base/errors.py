"""The few error classes of ColPort.

Each message is one sentence a user can act on: it names the field or file, what was found and
what is allowed. The command line and the rule adapters print it without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colport.base.redaction import redacted

_LONGEST = 4000  # characters


def _readable(text: str) -> str:
    text = redacted(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


class ColPortError(Exception):
    """Base of every error that a user can cause and mend; no text of it holds a token.

    It quotes files of others, so it is cut where nobody reads on.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(_readable(item) if isinstance(item, str) else item for item in args))


class ConfigError(ColPortError):
    """A configuration value is unknown, of the wrong type or contradicts another one."""


class CheckpointError(ColPortError):
    """A checkpoint is missing, damaged, of another family or does not fit its configuration."""


class ExportError(ColPortError):
    """A model cannot be written as the requested ONNX folder."""


class ArtifactError(ColPortError):
    """A file of a stage cannot be written, is missing, unreadable or of another schema version."""


class DatasetError(ColPortError):
    """A dataset is missing, has other columns than its schema, or contradicts itself."""


class InputError(DatasetError, ValueError):
    """A query or a document is none that the model takes.

    Attributes:
        argument: ``queries`` or ``documents``.
        index: Its place among them.
        reason: What is wrong with it; completes a sentence about it.
    """

    def __init__(self, argument: str, index: int | None = None, reason: str = "") -> None:
        super().__init__(argument if index is None else f"{argument}[{index}]: {reason}.")
        self.argument, self.index, self.reason = argument, index, reason


class LibraryError(ColPortError, ImportError):
    """ONNX Runtime is not installed, or its packages have overwritten each other."""


class UnsupportedError(ColPortError):
    """A known limit: the stage records ``status: unsupported`` with this reason and goes on."""

    status = "unsupported"


class PeerError(UnsupportedError):
    """A peer, or what it wrote, failed: its rows say ``status: failed``, and the run goes on."""

    status = "failed"


class ParityError(ColPortError):
    """An exported model is not what the checkpoint was."""


class RunError(ColPortError):
    """A stage measured what it could and recorded that something failed."""


class HubError(ColPortError):
    """The Hugging Face Hub refused an upload or a download, or cannot be reached."""


def chosen(field: str, name: str, known: Mapping[str, Any]) -> Any:
    """What a name stands for.

    Raises:
        ConfigError: It is none of those that are known.
    """
    if name not in known:
        raise ConfigError(f"{field}: {name!r} is unknown; allowed are {', '.join(known)}.")
    return known[name]


@contextmanager
def read_of(
    error_class: type[ColPortError],
    file: Path | str,
    fault: str = "{}",
    damaged: type[Exception] | tuple[type[Exception], ...] = ValueError,
) -> Iterator[None]:
    """Say in one sentence why a file cannot be read, or is not what it should be.

    Args:
        error_class: Class of the sentence.
        file: What it names.
        fault: Completes it where the content is damaged; ``{}`` stands for the library's reason.
        damaged: What a library raises then.
    """
    try:
        yield
    except ColPortError:
        raise
    except OSError as error:
        raise error_class(f"{file}: cannot be read ({error.strerror}).") from error
    except damaged as error:
        reason = " ".join(str(error).split())
        raise error_class(f"{file}: {fault.replace('{}', reason)}.") from error
