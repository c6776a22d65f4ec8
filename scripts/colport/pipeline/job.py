"""What every job has in common: one log, no traceback for a user's mistake, quiet libraries."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from colport.base.errors import ColPortError, ExportError
from colport.base.files import remove_on_stop
from colport.base.redaction import print_redacted, redacted


@contextmanager
def job(log: Path | str, name: str) -> Iterator[logging.Logger]:
    """Run a block as one job of the pipeline.

    Its messages go to ``log`` and to standard error. A :class:`ColPortError` ends the process
    with its one sentence, of which the log has the traceback where an export failed; any other
    exception leaves its traceback in the log and propagates.

    Args:
        log: Log file, replaced.
        name: What the job works on, put before each line.
    """
    # Progress bars of other libraries would drown the log of a parallel run.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    remove_on_stop()
    logger = _logger(Path(log), name)
    try:
        yield logger
    except ColPortError as error:
        logger.error("error: %s", error)
        if isinstance(error, ExportError) and error.__cause__ is not None:
            _keep_traceback(log)
        sys.exit(1)
    except Exception:
        _keep_traceback(log)
        sys.excepthook = print_redacted
        raise


def _keep_traceback(log: Path | str) -> None:
    with Path(log).open("a", encoding="utf-8") as stream:
        stream.write(redacted(traceback.format_exc()))


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _logger(log: Path, name: str) -> logging.Logger:
    log.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("colport")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers.clear()
    for handler in (logging.StreamHandler(sys.stderr), logging.FileHandler(log, mode="w")):
        handler.setFormatter(_Redacting(f"[{name}] %(message)s"))
        logger.addHandler(handler)
    return logger
