"""Image files of others', decoded to the pages that models see."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import IO

from PIL import Image, ImageFile

from colport.families.pages.images import PageError, as_page, decode_errors

__all__ = ["FORMATS", "Frames", "decode", "decode_errors", "open_image", "page_count"]

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Pillow hands others, such as EPS, to a program."""

_ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats whose further images are later ones; a JPEG file's are previews of its first."""


def open_image(file: Path | IO[bytes]) -> ImageFile.ImageFile:
    """Open an image file without decoding it; its size is known then.

    Raises:
        Exception: One of :func:`decode_errors`.
    """
    return Image.open(file, formats=FORMATS)


def page_count(image: ImageFile.ImageFile) -> int:
    """Pages of an open file: each image of a TIFF file, else one.

    Raises:
        PageError: It is an animation.
        Exception: One of :func:`decode_errors`.
    """
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format in _ANIMATED:
        raise PageError(f"is an animation of {count} images, not a page")
    return count if image.format == "TIFF" else 1


def decode(file: Path | IO[bytes]) -> Image.Image:
    """The page that an image file holds; see :func:`colport.families.pages.images.as_page`.

    Raises:
        Exception: One of :func:`decode_errors`; also where it holds several.
    """
    with open_image(file) as image:
        if (count := page_count(image)) > 1:
            raise PageError(f"holds {count} pages; allowed is one")
        return as_page(image)


class Frames:
    """Images of files that hold several, such as scans in TIFF; the last file stays open.

    Pillow finds an image by reading what stands before it: opened anew for each, a file of some
    thousand would take hours.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._image: ImageFile.ImageFile | None = None
        self._lock = Lock()

    def decode(self, file: Path, frame: int) -> Image.Image:
        """As :func:`decode`, of one of several images."""
        with self._lock:
            if self._image is None or self._file != file:
                if self._image is not None:
                    self._image.close()
                self._file, self._image = file, open_image(file)
            self._image.seek(frame)
            return as_page(self._image)
