"""What callers hand to an encoder: taken as it is, or refused by the name of its argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from numbers import Integral
from types import UnionType
from typing import Any

from PIL.Image import Image

from colport.base.errors import InputError
from colport.base.foreign import not_text
from colport.families.base import DocumentType
from colport.families.pages.images import PageError, as_page

_NO_LIST = (str, bytes, bytearray, Mapping, Set, Image)


def whole(argument: str, value: Any, most: int = 2**31 - 1) -> int:
    """A whole number from 1 up.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less than 1, or more than ``most``.
    """
    allowed = f"a whole number from 1 to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        kind = type(value).__name__
        raise TypeError(f"{argument}: found {value!r} ({kind}); allowed is {allowed}.")
    if not 1 <= value <= most:
        raise ValueError(f"{argument}: found {value}; allowed is {allowed}.")
    return int(value)


def typed(argument: str, value: Any, kind: type | UnionType, allowed: str) -> Any:
    """A value of a type.

    Raises:
        TypeError: It is of another one.
    """
    if not isinstance(value, kind):
        found = "None" if value is None else type(value).__name__
        raise TypeError(f"{argument}: found {found}; allowed is {allowed}.")
    return value


def windows(argument: str, inputs: Any, size: int) -> Iterator[tuple[int, list[Any]]]:
    """Inputs some at a time, each time behind the place of the first one; read when asked for.

    Raises:
        TypeError: ``inputs`` are neither a list nor another iterable of inputs.
    """
    # By order, not by key: those of a pandas Series may be in another one.
    is_iterable = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")
    if isinstance(inputs, _NO_LIST) or not is_iterable or getattr(inputs, "ndim", 1) != 1:
        raise TypeError(
            f"{argument}: found {type(inputs).__name__}; allowed is a list of inputs, or another "
            "iterable."
        )
    rest, first = iter(inputs), 0
    while chosen := list(islice(rest, size)):
        yield first, chosen
        first += len(chosen)


def typed_inputs(
    argument: str, chosen: Sequence[Any], kind: DocumentType, places: Sequence[int]
) -> None:
    """Check the types of inputs.

    Raises:
        TypeError: One is of another type than those of ``kind``.
    """
    expected, name = (Image, "a Pillow image") if kind == "pages" else (str, "a text")
    for place, item in zip(places, chosen, strict=True):
        typed(f"{argument}[{place}]", item, expected, name)


def checked(
    argument: str,
    chosen: Sequence[Any],
    kind: DocumentType,
    places: Sequence[int],
    each: Callable[..., Iterable[Any]] = map,
) -> list[Any]:
    """A batch as a family's runtime takes it: texts, or pages in RGB.

    Args:
        argument: What messages call them.
        chosen: The batch.
        kind: ``passages`` of queries, too.
        places: Where each lies among those that were given.
        each: ``map``, or one that reads images beside each other in threads.

    Raises:
        TypeError: One is of another type.
        InputError: A text that no tokenizer takes, or an image that cannot be read as a page.
    """
    typed_inputs(argument, chosen, kind, places)

    def taken(index: int, item: Any) -> Any:
        if isinstance(item, str):
            if found := not_text(item):
                raise InputError(argument, index, f"holds {found}, which is no text")
            return item
        try:
            return as_page(item)
        except PageError as error:
            raise InputError(argument, index, str(error)) from error

    return list(each(taken, places, chosen))
