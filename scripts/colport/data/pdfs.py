"""PDFs, read by PDFium (pypdfium2) in a process of its own, with a limit of memory and of time.

Some kilobytes of a PDF can unpack to gigabytes or take hours to draw, and do not say so
beforehand: such a file costs its page, not the run. Form fields and annotations are drawn.
"""

from __future__ import annotations

from pathlib import Path
from threading import RLock
from typing import Any

from PIL.Image import Image

from colport.base.errors import DatasetError
from colport.base.files import file_state
from colport.processes.child import Child, ChildError, ChildTimeoutError

MEMORY = 3 * 2**30
"""Bytes that a file may take; drawing the largest page that a config allows takes 2 GB."""

SECONDS = 60.0
"""What one page may take to be drawn or read; a dense map takes a few."""


class BadDocumentError(Exception):
    """Why one file or page cannot be read; ``args[0]`` completes a sentence about it."""


class PdfReader:
    """Reads pages of PDFs; the last file stays open, since the next page is often its own.

    The process starts with the first file and ends with this object. It is started anew after a
    file that has ended it.
    """

    def __init__(self) -> None:
        self._file: tuple[Any, ...] | None = None
        self._child: Child | None = None
        self._turn = RLock()

    def count(self, file: Path) -> int:
        """Number of pages, at least 1; the file is read anew.

        Raises:
            BadDocumentError: It is encrypted, damaged, has no pages, or takes too much.
            DatasetError: No PDF can be read here, for want of pypdfium2 or else.
        """
        with self._turn:
            self._file = None
            count = self._ask("open", str(file.absolute()))
            self._file = _state(file)
            return count

    def size(self, file: Path, index: int, dpi: float) -> tuple[float, float]:
        """Width and height of a page (from 0) in pixels, before it is drawn.

        Raises:
            BadDocumentError: The file or the page cannot be read.
        """
        return tuple(self._of(file, "size", index, dpi))

    def render(self, file: Path, index: int, dpi: float) -> Image:
        """A page (from 0) as an RGB image.

        Raises:
            BadDocumentError: The file or the page cannot be read, or takes too much.
        """
        return self._of(file, "render", index, dpi)

    def text(self, file: Path, index: int) -> str:
        """The text layer of a page (from 0), empty if there is none.

        Raises:
            BadDocumentError: The file or the page cannot be read, or takes too much.
        """
        return self._of(file, "text", index).replace("\r\n", "\n")

    def _of(self, file: Path, do: str, *arguments: Any) -> Any:
        with self._turn:
            if self._file is None or self._file != _state(file):
                self.count(file)
            return self._ask(do, *arguments)

    def _ask(self, do: str, *arguments: Any) -> Any:
        if self._child is None:
            self._child = _start()
        memory = f"takes more than {MEMORY / 2**30:.3g} GiB of memory"
        try:
            answer = self._child.ask({"do": do, "with": arguments}, SECONDS)
        except ChildTimeoutError:
            self._file = self._child = None
            raise BadDocumentError(f"takes more than {SECONDS:g} s to be read") from None
        except ChildError as ended:
            self._file = self._child = None
            raise BadDocumentError(f"ends PDFium ({ended}), or {memory}") from None
        if "out_of_memory" in answer:
            raise BadDocumentError(memory)
        if "refusal" in answer:
            raise BadDocumentError(answer["refusal"])
        return answer["result"]


def _start() -> Child:
    child = Child.of("colport.data.pdf_process")
    try:
        child.ask({"do": "limit", "with": [MEMORY]})
    except ChildError as error:
        raise DatasetError(f"PDFs need `pip install pypdfium2`: its process {error}.") from None
    return child


def _state(file: Path) -> tuple[Any, ...]:
    """What changes when a file does."""
    try:
        return file, *file_state(file)
    except OSError as error:
        raise BadDocumentError(f"cannot be read: {error.strerror}") from error
