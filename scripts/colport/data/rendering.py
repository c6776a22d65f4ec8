"""Pages of PDFs and image files, rendered or decoded one at a time, when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from colport.base.errors import DatasetError
from colport.data.images import Frames, decode, decode_errors
from colport.data.pdfs import BadDocumentError, PdfReader

if TYPE_CHECKING:
    from PIL.Image import Image

PDF = ".pdf"


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


@dataclass(frozen=True)
class PageReader:
    """Reads the pages of a folder.

    Attributes:
        name: Name of the dataset, for messages.
        dpi: Resolution of a PDF's pages.
        pdfs: Reads the PDFs.
        frames: Reads files of several images.
    """

    name: str
    dpi: float
    pdfs: PdfReader
    frames: Frames = field(default_factory=Frames)

    def image(self, page: Page) -> Image:
        """The page in RGB.

        Raises:
            DatasetError: It cannot be rendered or decoded.
        """
        with self._named(page, *decode_errors()):
            if page.is_pdf:
                return self.pdfs.render(page.file, page.index, self.dpi)
            if page.is_one_of_several:
                return self.frames.decode(page.file, page.index)
            return decode(page.file)

    def text(self, page: Page) -> str:
        """The text layer of a PDF's page; an image's is empty.

        Raises:
            DatasetError: The PDF cannot be read.
        """
        with self._named(page):
            return self.pdfs.text(page.file, page.index) if page.is_pdf else ""

    @contextmanager
    def _named(self, page: Page, *errors: type[Exception]) -> Iterator[None]:
        try:
            yield
        except (BadDocumentError, *errors) as error:
            raise DatasetError(f"{self.name}: {page.id} cannot be read ({error}).") from error
