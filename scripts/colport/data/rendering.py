"""Pages of PDFs and image files, rendered or decoded one at a time, when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class FolderPages(Sequence["Image"]):
    """Pages as PIL RGB images, each rendered when it is indexed; slices are lazy too.

    Args:
        name: Name of the dataset, for messages.
        pages: Where they lie.
        dpi: Resolution of a PDF's pages.
        reader: Reads the PDFs.
    """

    def __init__(self, name: str, pages: Sequence[Page], dpi: float, reader: PdfReader) -> None:
        self._name, self._pages, self._dpi = name, pages, dpi
        self._reader, self._frames = reader, Frames()

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return FolderPages(self._name, self._pages[index], self._dpi, self._reader)
        page = self._pages[index]
        try:
            if page.is_pdf:
                return self._reader.render(page.file, page.index, self._dpi)
            if page.is_one_of_several:
                return self._frames.decode(page.file, page.index)
            return decode(page.file)
        except (BadDocumentError, *decode_errors()) as error:
            raise DatasetError(f"{self._name}: {page.id} cannot be read ({error}).") from error


class TextLayers(Sequence[str]):
    """Text layers of PDF pages, each read when it is indexed; an image's is empty.

    Args:
        name: Name of the dataset, for messages.
        pages: Where they lie.
        reader: Reads the PDFs.
    """

    def __init__(self, name: str, pages: Sequence[Page], reader: PdfReader) -> None:
        self._name, self._pages, self._reader = name, pages, reader

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return TextLayers(self._name, self._pages[index], self._reader)
        page = self._pages[index]
        if not page.is_pdf:
            return ""
        try:
            return self._reader.text(page.file, page.index)
        except BadDocumentError as error:
            raise DatasetError(f"{self._name}: {page.id} cannot be read ({error}).") from error
