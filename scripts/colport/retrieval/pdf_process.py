"""PDFium, run by :mod:`colport.retrieval.pdfs` in a process of its own with limited memory.

A request is JSON; the answer is JSON and, for a page, its pixels. PDFium does not survive an
allocation that is refused, and a file made to harm may end it in other ways: that is why it is
here.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image  # noqa: F401 - what PDFium's pages become; here, so that the limit is set after it
import pypdfium2

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD of PDFium
_POINTS_PER_INCH = 72  # a PDF's unit of length is a point
_SIZE = Path("/proc/self/statm")  # of this process, in memory pages


class _RefusedError(Exception):
    """Completes a sentence about the file or page."""


class _Server:
    """Answers requests about one open file at a time."""

    def __init__(self) -> None:
        self._pdf: PdfDocument | None = None

    def open(self, file: str) -> tuple[int, bytes]:
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
        return len(self._pdf), b""

    def size(self, index: int, dpi: float) -> tuple[tuple[float, float], bytes]:
        """Width and height of a page in pixels."""
        scale = dpi / _POINTS_PER_INCH
        try:
            width, height = self._pdf.get_page_size(index)
            return (width * scale, height * scale), b""
        except pypdfium2.PdfiumError as error:
            raise _RefusedError("is a page that PDFium cannot read") from error

    def render(self, index: int, dpi: float) -> tuple[tuple[int, int], bytes]:
        """Width and height in pixels, and the pixels, three bytes each."""
        with (
            closing(self._pdf[index]) as page,
            closing(page.render(scale=dpi / _POINTS_PER_INCH)) as bitmap,
        ):
            image = bitmap.to_pil().convert("RGB")
        return image.size, image.tobytes()

    def text(self, index: int) -> tuple[None, bytes]:
        """The text layer of a page."""
        with closing(self._pdf[index]) as page, closing(page.get_textpage()) as layer:
            return None, layer.get_text_range().encode("utf-8", "replace")


def _limit(memory: int) -> None:
    """Let this process have as many bytes more than it has now; on Linux only, others do not."""
    if not _SIZE.exists():
        return
    pages = int(_SIZE.read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def serve(pipe: Connection, memory: int) -> None:
    """Answer requests until the other side is closed."""
    server = _Server()
    _limit(memory)
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        answer: dict[str, Any]
        content = b""
        try:
            result, content = getattr(server, request["do"])(*request["with"])
            answer = {"result": result}
        except _RefusedError as error:
            answer = {"refusal": error.args[0]}
        except pypdfium2.PdfiumError as error:
            answer = {"refusal": f"PDFium: {error}"}
        except MemoryError:
            answer = {"out_of_memory": True}
        pipe.send_bytes(json.dumps(answer).encode())
        pipe.send_bytes(content)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
