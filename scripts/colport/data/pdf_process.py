"""PDFium, run by :mod:`colport.data.pdfs` in a process of its own with limited memory.

PDFium does not survive an allocation that is refused, and a file made to harm may end it in other
ways: that is why it is here.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image  # what PDFium's pages become; here, so that the limit is set after it
import pypdfium2

from colport.processes.wire import serve

_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD of PDFium
_POINTS_PER_INCH = 72  # a PDF's unit of length is a point
_SIZE = Path("/proc/self/statm")  # of this process, in memory pages


class _RefusedError(Exception):
    """Completes a sentence about the file or page."""


class _Server:
    """Answers requests about one open file at a time."""

    def __init__(self) -> None:
        self._pdf: pypdfium2.PdfDocument | None = None

    def limit(self, memory: int) -> None:
        """Let this process have as many bytes more than it has now, on Linux only."""
        if not _SIZE.exists():
            return
        pages = int(_SIZE.read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))

    def open(self, file: str) -> int:
        """Number of pages."""
        if self._pdf is not None:
            self._pdf.close()
            self._pdf = None
        try:
            self._pdf = pypdfium2.PdfDocument(file)
        except (pypdfium2.PdfiumError, OSError) as error:
            if getattr(error, "err_code", None) == _PASSWORD_ERROR:
                raise _RefusedError("is encrypted and asks for a password") from error
            # PDFium gives the same answer to both.
            raise _RefusedError("is a PDF that is damaged or has no pages") from error
        self._pdf.init_forms()
        return len(self._pdf)

    def size(self, index: int, dpi: float) -> tuple[float, float]:
        """Width and height of a page in pixels."""
        scale = dpi / _POINTS_PER_INCH
        try:
            width, height = self._pdf.get_page_size(index)
            return width * scale, height * scale
        except pypdfium2.PdfiumError as error:
            raise _RefusedError("is a page that PDFium cannot read") from error

    def render(self, index: int, dpi: float) -> PIL.Image.Image:
        """A page as an RGB image."""
        with (
            closing(self._pdf[index]) as page,
            closing(page.render(scale=dpi / _POINTS_PER_INCH)) as bitmap,
        ):
            return bitmap.to_pil().convert("RGB")

    def text(self, index: int) -> str:
        """The text layer of a page."""
        with closing(self._pdf[index]) as page, closing(page.get_textpage()) as layer:
            return layer.get_text_range().encode("utf-8", "replace").decode()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The result of the method that a request names, or why there is none."""
        try:
            return {"result": getattr(self, request["do"])(*request["with"])}
        except _RefusedError as error:
            return {"refusal": error.args[0]}
        except pypdfium2.PdfiumError as error:
            return {"refusal": f"PDFium: {error}"}
        except MemoryError:
            return {"out_of_memory": True}


if __name__ == "__main__":
    serve(_Server().answer)
