"""The user's own pages: a folder of PDFs and images, its sub-folders included.

Each page is a document. A page of ``reports/2024.pdf`` is ``reports/2024.pdf#12``, counted from 1;
an image is its path, and so is a TIFF file with one page. Files of other kinds and hidden ones are
left alone. Pages are rendered or decoded one at a time, when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from PIL.Image import Image

from colport.base.declared import Allowed
from colport.base.errors import DatasetError
from colport.base.foreign import local, not_text
from colport.data.base import Lazy, RetrievalDataset, in_language
from colport.data.captions import read_captions
from colport.data.images import Frames, decode, decode_errors, open_image, page_count
from colport.data.judgements import judged, read_queries, read_rows
from colport.data.pdfs import BadDocumentError, PdfReader
from colport.families.pages.images import PageError, as_page

PDF = ".pdf"
IMAGES = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True)
class PageSettings:
    """How files of the user's own become pages."""

    dpi: Annotated[int, Allowed(minimum=1, maximum=1200)] = 144
    """Resolution at which PDFs are rendered."""

    # More than A0 at 144 DPI; a page of it takes 200 MB while it is rendered.
    max_pixels: Annotated[int, Allowed(minimum=1, maximum=178956970)] = 50_000_000
    """A page with more pixels is bad, found before it is rendered."""

    on_bad_document: Annotated[str, Allowed(enum=["refuse", "skip"])] = "refuse"
    """Refuse or skip what is encrypted, damaged, empty, too large, an animation, an image whose
    black and white are not known (32-bit or float), or of a shape that the library of a model that
    reads it does not take (ColQwen2: sides that differ more than 200 times). A PDF's page may take
    60 seconds and 3 GiB to be drawn. What is skipped is listed in
    ``results/datasets/{dataset}.json`` and in the log, and its judgements are dropped."""

    @classmethod
    def of(cls, declaration: Mapping[str, Any]) -> PageSettings:
        """Those that an entry of ``datasets`` states, over the defaults."""
        return cls(**{key: declaration[key] for key in cls.__annotations__ if key in declaration})


def read_own(
    name: str, declaration: Mapping[str, Any], *, is_checked: bool = False
) -> RetrievalDataset:
    """Read a folder of pages with its queries and, if there are any, judgements, or with captions.

    Args:
        name: Name of the dataset, for messages.
        declaration: See :func:`colport.data.datasets.load_retrieval_dataset`.
        is_checked: Whether damaged images are known, so that none is decoded here.

    Raises:
        DatasetError: A file is missing, damaged or contradicts another one; or a document is bad
            and ``on_bad_document`` is not ``skip``.
    """
    folder = local(declaration["documents_folder"])
    if not folder.is_dir():
        raise DatasetError(f"{name}: folder {folder} does not exist.")
    settings = PageSettings.of(declaration)
    reading = PageReader(name, settings)
    remedy = "; `on_bad_document: skip` leaves such documents out"
    decode = settings.on_bad_document == "skip" and not is_checked
    pages, bad = reading.find(folder, decode, remedy)
    judgements = declaration.get("judgements")
    images, document_ids = Lazy(pages, reading.image), [page.id for page in pages]
    if "captions" in declaration:
        found = read_captions(name, local(declaration["captions"]), document_ids, bad)
        return RetrievalDataset(
            name, document_ids=document_ids, documents=images, skipped=bad, **found
        )
    query_ids, texts, languages = read_queries(
        name, local(declaration["queries"]), ids_needed=judgements is not None
    )
    rows = list(read_rows(name, local(judgements))) if judgements else []
    qrels = judged(rows, query_ids, document_ids, bad)
    label, language = f"{name}: {declaration['queries']}", declaration.get("language")
    asked, known = in_language(f"{label}, column language", languages, language)
    known = known or tuple(declaration.get("languages", ()))
    page_texts = None
    if any(page.is_pdf for page in pages):
        page_texts = Lazy(pages, reading.text)
    ids = query_ids, texts, document_ids
    dataset = RetrievalDataset(name, *ids, images, qrels, page_texts, known, bad)
    return dataset.with_queries([row for row, wanted in enumerate(asked) if wanted])


@dataclass
class _Scan:
    """Finds pages without rendering them.

    Attributes:
        folder: Where they lie; it may be a single file.
        settings: How files become pages.
        decode: Whether images are decoded, so that a damaged one is found here.
        reader: Reads the PDFs.
        bad: Path or id to the reason.
    """

    folder: Path
    settings: PageSettings
    decode: bool
    reader: PdfReader
    bad: dict[str, str] = field(default_factory=dict)

    def pages(self) -> Iterator[Page]:
        """Pages of all files in the order of their paths."""
        root = self.folder.resolve()
        for path, file in sorted(self._visible().items()):
            suffix = file.suffix.lower()
            is_link_to_folder = file.is_symlink() and file.is_dir()
            is_named = suffix in (PDF, *IMAGES) or file == self.folder
            if not is_named and not is_link_to_folder:
                continue
            if file.exists() and not (file.is_file() or is_link_to_folder):  # links to pipes, too
                continue
            try:
                if is_link_to_folder:
                    raise BadDocumentError("is a link to a folder, which is not followed")
                if not file.exists():
                    raise BadDocumentError("is a link to a file that is not there")
                if not file.resolve().is_relative_to(root):
                    raise BadDocumentError("is a link that leads out of the folder")
                if half := not_text(path):
                    raise BadDocumentError(f"has a name that is not UTF-8 ({half})")
                yield from (self._pdf if suffix == PDF else self._image)(path, file)
            except BadDocumentError as error:
                self.bad[os.fsencode(path).decode(errors="backslashreplace")] = error.args[0]

    def _visible(self) -> dict[str, Path]:
        """Files and links by their path in the folder; a folder that cannot be read is bad."""

        def unread(error: OSError) -> None:
            path = Path(error.filename).relative_to(self.folder).as_posix()
            self.bad[path] = f"is a folder that cannot be read ({error.strerror})"

        files = {self.folder.name: self.folder} if self.folder.is_file() else {}
        for place, folders, names in os.walk(self.folder, onerror=None if files else unread):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in (*folders, *names):
                file = Path(place, name)
                if not name.startswith("."):
                    files[file.relative_to(self.folder).as_posix()] = file
        return files

    def _pdf(self, path: str, file: Path) -> Iterator[Page]:
        for index in range(self.reader.count(file)):
            page = Page(f"{path}#{index + 1}", file, index)
            try:
                size = self.reader.size(file, index, self.settings.dpi)
                self._check_size(*size, f" at {self.settings.dpi} DPI")
            except BadDocumentError as error:
                self.bad[page.id] = error.args[0]
            else:
                yield page

    def _image(self, path: str, file: Path) -> Iterator[Page]:
        pages = []
        try:
            with open_image(file) as image:
                count = page_count(image)
                for index in range(count):
                    image.seek(index)
                    self._check_size(*image.size)
                    if self.decode:
                        as_page(image)
                    pages.append(Page(f"{path}#{index + 1}" if count > 1 else path, file, index))
        except PageError as error:
            raise BadDocumentError(error.args[0]) from error
        except decode_errors() as error:
            raise BadDocumentError(f"is an image that cannot be decoded ({error})") from error
        yield from pages

    def _check_size(self, width: float, height: float, where: str = "") -> None:
        page = f"is a page of {width:.0f}x{height:.0f} pixels{where}"
        if not width * height >= 1:
            raise BadDocumentError(page)
        if width * height > (most := self.settings.max_pixels):
            raise BadDocumentError(f"{page}, more than max_pixels ({most})")


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
    """Finds and reads pages.

    Attributes:
        name: Name of the dataset, for messages.
        settings: How files become pages.
        pdfs: Reads the PDFs.
        frames: Reads files of several images.
    """

    name: str
    settings: PageSettings
    pdfs: PdfReader = field(default_factory=PdfReader)
    frames: Frames = field(default_factory=Frames)

    def find(
        self, place: Path, decode: bool, remedy: str = ""
    ) -> tuple[list[Page], dict[str, str]]:
        """The pages of a folder or of one file, and what was skipped and why.

        Args:
            place: A folder, its sub-folders included; or a PDF or an image, whatever it is called.
            decode: Whether images are decoded, so that a damaged one is found here.
            remedy: Ends the sentence about a bad document.

        Raises:
            DatasetError: There is no page, or a document is bad and bad ones are not skipped.
        """
        scan = _Scan(place, self.settings, decode, self.pdfs)
        pages = list(scan.pages())
        if scan.bad and self.settings.on_bad_document == "refuse":
            (first, reason), *others = scan.bad.items()
            more = f" (and {len(others)} more)" if others else ""
            folder = place.parent if place.is_file() else place
            raise DatasetError(f"{self.name}: {first} in {folder} {reason}{more}{remedy}.")
        if not pages:
            raise DatasetError(
                f"{self.name}: {place} holds no page that can be read; allowed are "
                f"{', '.join([PDF, *IMAGES])}."
            )
        return pages, scan.bad

    def image(self, page: Page) -> Image:
        """The page in RGB.

        Raises:
            DatasetError: It cannot be rendered or decoded.
        """
        with self._named(page, *decode_errors()):
            if page.is_pdf:
                return self.pdfs.render(page.file, page.index, self.settings.dpi)
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
