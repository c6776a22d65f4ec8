"""What tells variants apart: a shape and a colour each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup

from colport.base.names import REFERENCE_VARIANT, is_peer

SHAPES = (
    "M0-5.6A5.6 5.6 0 1 1 0 5.6A5.6 5.6 0 1 1 0-5.6Z",
    "M-5-5H5V5H-5Z",
    "M0-6.8L6.8 0L0 6.8L-6.8 0Z",
    "M0-6.4L6.2 5H-6.2Z",
    "M0 6.4L6.2-5H-6.2Z",
    "M-3.2-6H3.2L6.4 0L3.2 6H-3.2L-6.4 0Z",
    "M0-7L1.7-1.7L7 0L1.7 1.7L0 7L-1.7 1.7L-7 0L-1.7-1.7Z",
    "M-2.2-6.2H2.2V-2.2H6.2V2.2H2.2V6.2H-2.2V2.2H-6.2V-2.2H-2.2Z",
)
REFERENCE_SHAPE = (
    "M-5.4-3.6L-3.6-5.4L0-1.8L3.6-5.4L5.4-3.6L1.8 0L5.4 3.6L3.6 5.4L0 1.8L-3.6 5.4L-5.4 3.6L-1.8 0Z"
)
COLOURS = 7
"""Seven colours and eight shapes: both repeat, their pair does so only after 56 variants."""

GREY = "c0"

RECOMMENDED = Markup('<circle class="ring" r="9.5"/>')
HOLLOW = Markup('<circle class="mark c0 unsound" r="5.6"/>')


class Mark(NamedTuple):
    """The mark of one variant: a path around (0, 0), and the class of its colour."""

    shape: str
    colour: str


def shape_and_colour(number: int | None) -> Mark:
    """Mark of the variant with this number; ``None`` is PyTorch."""
    if number is None:
        return Mark(REFERENCE_SHAPE, GREY)
    return Mark(SHAPES[number % len(SHAPES)], f"c{1 + number % COLOURS}")


class Legend(dict[str, Mark]):
    """A mark for each variant by its name, PyTorch's first; any other is as grey as PyTorch."""

    def __init__(self, variants: Iterable[str]) -> None:
        names = list(dict.fromkeys(variants))
        if REFERENCE_VARIANT in names:
            self[REFERENCE_VARIANT] = shape_and_colour(None)
        ours = [name for name in names if name != REFERENCE_VARIANT and not is_peer(name)]
        self.update((name, shape_and_colour(number)) for number, name in enumerate(ours))
        peers = enumerate(filter(is_peer, names))
        self.update(
            (name, shape_and_colour(number)._replace(colour=GREY)) for number, name in peers
        )

    def __missing__(self, name: str) -> Mark:
        return shape_and_colour(None)
