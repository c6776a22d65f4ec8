"""Image processors of transformers: what each does to a page, as settings of an exported folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from colport.base.errors import UnsupportedError
from colport.base.foreign import misfit, shape_beside
from colport.families.pages.images import KERNELS

_KERNELS = {Image.Resampling[kernel.upper()]: kernel for kernel in KERNELS}
_CHANNELS = 3  # of a page in RGB

SHAPE = shape_beside(__file__)
"""What every processor's settings have."""

Steps = tuple[tuple[str, tuple[Any, ...]], ...]
"""Settings, each with the values that are exported."""

_STEPS: Steps = (
    *((step, (True,)) for step in ("do_resize", "do_rescale", "do_normalize")),
    ("resample", tuple(_KERNELS)),
)
"""What the runtime does to a page."""


def values(folder: Path, images: Any, known: Collection[str], steps: Steps) -> dict[str, Any]:
    """How an image processor filters pixels and scales their values.

    Args:
        folder: The checkpoint, for messages.
        images: The processor.
        known: Names of the classes that are exported.
        steps: Its own settings that change pages, beside those of every processor.

    Returns:
        Settings of :data:`SHAPE`.

    Raises:
        UnsupportedError: It is of another class, or does something else.
    """
    if (kind := type(images).__name__) not in known:
        exported = " or ".join(known)
        raise UnsupportedError(f"{folder}: the image processor is {kind}; exported is {exported}.")
    refuse_others(f"{folder}: the image processor has", images, (*_STEPS, *steps))
    return {
        "resample": _KERNELS[images.resample],
        "scale": _by_channel(folder, images, "rescale_factor")[0],
        "mean": _by_channel(folder, images, "image_mean"),
        "std": _by_channel(folder, images, "image_std"),
    }


def refuse_others(place: str, settings: Any, steps: Steps) -> None:
    """Refuse settings of other values than those that are exported.

    Args:
        place: Begins the sentence.
        settings: Has them as attributes.
        steps: What is exported.

    Raises:
        UnsupportedError: One is another.
    """
    for key, allowed in steps:
        if (found := getattr(settings, key)) not in allowed:
            exported = " or ".join(map(str, allowed))
            raise UnsupportedError(f"{place} {key} {found}; exported is {exported} only.")


def _by_channel(folder: Path, images: Any, key: str) -> list[float]:
    """A setting of an image processor for each channel; a number is that of all.

    Raises:
        UnsupportedError: It is none, or 0 where it would be divided by.
    """
    value = getattr(images, key)
    found = list(value) if isinstance(value, list | tuple) else [value]
    is_zero = key != "image_mean" and 0 in found
    if misfit(found, [(int, float)]) or is_zero or len(found) not in (1, _CHANNELS):
        raise UnsupportedError(
            f"{folder}: the image processor's {key} is {value!r}; allowed is a number, or one for "
            f"each of {_CHANNELS} channels; 0 only as image_mean."
        )
    return found * (_CHANNELS // len(found))
