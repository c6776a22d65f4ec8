"""Pages of PDFs and image files, rendered or decoded one at a time, when they are asked for.

PDFs are rendered with PDFium (pypdfium2), form fields and annotations included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.errors import DatasetError
from colport.retrieval.images import Frames, decode, decode_errors

if TYPE_CHECKING:
    from PIL.Image import Image
    from pypdfium2 import PdfDocument, PdfPage

PDF = ".pdf"
POINTS_PER_INCH = 72
"""A PDF's unit of length is a point."""

_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD of PDFium


class BadDocumentError(Exception):
    """Why one file or page cannot be read; ``args[0]`` completes a sentence about it."""


@dataclass(frozen=True)
class Page:
    """Where one document lies.

    Attributes:
        id: Path inside the folder, with ``#`` and the page's number if the file has several.
        file: The file.
        index: Page of a PDF or TIFF file, from 0.
    """

    id: str
    file: Path
    index: int = 0

    @property
    def is_pdf(self) -> bool:
        """Whether the page is rendered and may have a text layer."""
        return self.file.suffix.lower() == PDF

    @property
    def is_one_of_several(self) -> bool:
        """Whether its file holds further pages."""
        return self.id.endswith(f"#{self.index + 1}")


class FolderPages(Sequence["Image"]):
    """Pages as PIL RGB images, each rendered when it is indexed; slices are lazy too."""

    def __init__(self, name: str, pages: Sequence[Page], dpi: float) -> None:
        self._name, self._pages, self._dpi = name, pages, dpi
        self._reader, self._frames = _Reader(), Frames()

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return FolderPages(self._name, self._pages[index], self._dpi)
        page = self._pages[index]
        try:
            if page.is_pdf:
                return self._render(page)
            if page.is_one_of_several:
                return self._frames.decode(page.file, page.index)
            return decode(page.file)
        except (BadDocumentError, *decode_errors()) as error:
            raise DatasetError(f"{self._name}: {page.id} cannot be read ({error}).") from error

    def _render(self, page: Page) -> Image:
        scale = self._dpi / POINTS_PER_INCH
        with self._reader.page(page) as opened, closing(opened.render(scale=scale)) as bitmap:
            return bitmap.to_pil().convert("RGB")


class TextLayers(Sequence[str]):
    """Text layers of PDF pages, each read when it is indexed; an image's is empty."""

    def __init__(self, name: str, pages: Sequence[Page]) -> None:
        self._name, self._pages = name, pages
        self._reader = _Reader()

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return TextLayers(self._name, self._pages[index])
        page = self._pages[index]
        if not page.is_pdf:
            return ""
        try:
            with self._reader.page(page) as opened, closing(opened.get_textpage()) as layer:
                return layer.get_text_range().replace("\r\n", "\n")
        except BadDocumentError as error:
            raise DatasetError(f"{self._name}: {page.id} cannot be read ({error}).") from error


@contextmanager
def open_pdf(file: Path) -> Iterator[PdfDocument]:
    """Open a PDF for the length of a block.

    Raises:
        BadDocumentError: It is encrypted, damaged, or has no pages.
    """
    with closing(_load(file)) as pdf:
        yield pdf


class _Reader:
    """Opens pages of PDFs; the file of the last one stays open, since the next is often its own."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._pdf: PdfDocument | None = None

    @contextmanager
    def page(self, page: Page) -> Iterator[PdfPage]:
        import pypdfium2

        if self._pdf is None or self._file != page.file:
            self._file, self._pdf = page.file, _load(page.file)
            self._pdf.init_forms()
        try:
            with closing(self._pdf[page.index]) as opened:
                yield opened
        except pypdfium2.PdfiumError as error:
            raise BadDocumentError(f"PDFium: {error}") from error


def _load(file: Path) -> PdfDocument:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(file)
    except (pypdfium2.PdfiumError, OSError) as error:
        if getattr(error, "err_code", None) == _PASSWORD_ERROR:
            raise BadDocumentError("is encrypted and asks for a password") from error
        # PDFium gives the same answer to both.
        raise BadDocumentError("is a PDF that is damaged or has no pages") from error
