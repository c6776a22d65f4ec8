"""What callers hand to an encoder: taken as it is, or refused by the name of its argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
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


def listed(argument: str, inputs: Any) -> Any:
    """Inputs that are a list of such.

    Raises:
        TypeError: They are not.
    """
    is_list = hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
    if isinstance(inputs, _NO_LIST) or not is_list or getattr(inputs, "ndim", 1) != 1:
        raise TypeError(
            f"{argument}: found {type(inputs).__name__}; allowed is a list of inputs, or another "
            "sequence."
        )
    return inputs


def batches(argument: str, inputs: Any, batch_size: Any) -> Iterator[tuple[int, list[Any]]]:
    """Inputs in batches, each behind the place of its first one; read when a batch is asked for.

    Raises:
        TypeError: ``inputs`` is no list of inputs, or ``batch_size`` no whole number.
        ValueError: ``batch_size`` is out of range.
    """
    size = whole("batch_size", batch_size)
    # By order, not by key: those of a pandas Series may be in another one.
    rest = iter(listed(argument, inputs))
    return ((first, list(islice(rest, size))) for first in range(0, len(inputs), size))


def checked(argument: str, chosen: Sequence[Any], kind: DocumentType, first: int = 0) -> list[Any]:
    """A batch as a family's runtime takes it: texts, or pages in RGB.

    Args:
        argument: What messages call them.
        chosen: The batch.
        kind: ``passages`` of queries, too.
        first: Place of its first one.

    Raises:
        TypeError: One is of another type.
        InputError: A text that no tokenizer takes, or an image that cannot be read as a page.
    """
    expected, name = (Image, "a Pillow image") if kind == "pages" else (str, "a text")
    taken = []
    for index, item in enumerate(chosen, start=first):
        if isinstance(typed(f"{argument}[{index}]", item, expected, name), str):
            if found := not_text(item):
                raise InputError(argument, index, f"holds {found}, which is no text")
        else:
            try:
                item = as_page(item)
            except PageError as error:
                raise InputError(argument, index, str(error)) from error
        taken.append(item)
    return taken
