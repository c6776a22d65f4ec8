"""Image files of others', decoded to the pages that models see."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Pillow hands others, such as EPS, to a program."""


def open_image(file: Path | IO[bytes]) -> ImageFile:
    """Open an image file without decoding it; its size is known then.

    Raises:
        Exception: One of :func:`decode_errors`.
    """
    import PIL.Image

    return PIL.Image.open(file, formats=FORMATS)


def decode(file: Path | IO[bytes], frame: int = 0) -> Image:
    """A page as an RGB image, turned upright as its camera says.

    Args:
        file: An image file in one of :data:`FORMATS`.
        frame: Which image of a file that holds several.

    Raises:
        Exception: One of :func:`decode_errors`.
    """
    import PIL.ImageOps

    with open_image(file) as image:
        image.seek(frame)
        PIL.ImageOps.exif_transpose(image, in_place=True)
        return image.convert("RGB")


class Frames:
    """Images of files that hold several, such as scans in TIFF; the last file stays open.

    Pillow finds an image by reading what stands before it: opened anew for each, a file of some
    thousand would take hours.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._image: ImageFile | None = None

    def decode(self, file: Path, frame: int) -> Image:
        """As :func:`decode`."""
        import PIL.ImageOps

        if self._image is None or self._file != file:
            if self._image is not None:
                self._image.close()
            self._file, self._image = file, open_image(file)
        self._image.seek(frame)
        return PIL.ImageOps.exif_transpose(self._image).convert("RGB")


def decode_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises on damaged files."""
    import PIL.Image

    return (
        OSError,
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        LookupError,
        ArithmeticError,
        struct.error,
        PIL.Image.DecompressionBombError,
    )
