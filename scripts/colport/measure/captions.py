"""Parity of captioners: the tokens of their library's ``generate``, and logits behind its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from colport.base import machine
from colport.base.columns import row
from colport.base.errors import ConfigError, UnsupportedError
from colport.base.files import check_supported
from colport.measure import parity
from colport.runtime.captioner import Captioner

KIND = "caption"
"""Of rows of ``parity.csv``."""

_SEARCHES: Mapping[str, Mapping[str, int]] = {"greedy": {"num_beams": 1}, "own": {}}
"""Name of a search to what ``generate`` is given; ``own`` is as the checkpoint says."""

_FORCED = 32  # tokens of a text whose logits are compared

Standard = Mapping[str, Sequence[np.ndarray]]


def load(folder: Path | str, provider: Mapping[str, Any], threads: int | None = None) -> Captioner:
    """An exported captioner.

    Raises:
        ArtifactError: The folder is not whole.
        UnsupportedError: The provider does not run captioners, or there is nothing to run.
    """
    check_supported(folder)
    try:
        return Captioner(folder, provider, threads)
    except ConfigError as error:
        raise UnsupportedError(str(error)) from error


def standard(
    generator: Any,
    pictures: Sequence[Image],
    prompts: Sequence[str | None],
    **settings: Any,
) -> Standard:
    """What the checkpoint's own library, or a folder, generates for each picture alone.

    Args:
        generator: A :class:`~colport.families.captions.reference.Generator` or a captioner.
        pictures: Each in RGB.
        prompts: One a picture.
        **settings: Of ``generate``.

    Returns:
        Ids ``int64 [tokens]`` of each text, ``greedy`` and by the checkpoint's ``own`` search; and
        ``logits float32 [tokens, vocabulary]`` behind the first tokens of the greedy one.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*_SEARCHES, "logits")}
    for picture, prompt in zip(pictures, prompts, strict=True):
        for name, search in _SEARCHES.items():
            found[name] += generator.generate_tokens([picture], prompt, **search, **settings)
        forced = found["greedy"][-1][None, :_FORCED]
        found["logits"] += [*generator.logits([picture], forced, prompt)]
    return found


def measure(
    captioner: Captioner,
    pictures: Sequence[Image],
    prompts: Sequence[str | None],
    known: Standard,
    batch_sizes: Sequence[int],
    tolerance: parity.Tolerance,
    labels: Mapping[str, str],
    **settings: Any,
) -> dict[str, Any]:
    """Run an exported captioner on the pictures and compare it with the library.

    Logits are compared behind the library's own texts, with the captioner's cache, so that no other
    token comes between: a near tie, which another token may decide, neither hides nor fakes a loss.
    Where the tolerance has a largest difference, all tokens have to be equal, too.

    Args:
        captioner: The exported folder.
        pictures: Each in RGB.
        prompts: One a picture.
        known: :func:`standard` of the same pictures.
        batch_sizes: Tokens are compared at each.
        tolerance: What the variant may lose, of logits.
        labels: ``model``, ``variant`` and ``provider`` of the row.
        **settings: As of :func:`standard`.

    Returns:
        The stage's record as that of :func:`colport.measure.parity.measure`, with one row and
        ``parted``: each text with other tokens and the first place where they are others.
    """
    pictures = [*pictures]
    logits = [
        captioner.logits([picture], greedy[None, :_FORCED], prompt)[0]
        for picture, greedy, prompt in zip(pictures, known["greedy"], prompts, strict=True)
    ]
    difference = parity.compare(known["logits"], logits)
    figures = parity.judged({1: difference}, None, tolerance, None)
    parted = []
    for search, size in product(_SEARCHES, batch_sizes):
        own = {**_SEARCHES[search], **settings, "batch_size": size}
        found = captioner.generate_tokens(pictures, [*prompts], **own)
        for index, (expected, ids) in enumerate(zip(known[search], found, strict=True)):
            if np.array_equal(expected, ids):
                continue
            place = _first(expected, ids)
            at = {"search": search, "batch_size": size, "input": index, "token": place}
            if search == "greedy":
                sides = known["logits"][index], logits[index]
                at |= _margins(expected, ids, place, *sides)
            parted.append(at)
    compared = len(_SEARCHES) * len(batch_sizes) * len(pictures)
    figures["equal_tokens"] = 1 - len(parted) / compared
    figures["parted_at"] = _told(parted[0]) if parted else ""
    if parted and tolerance.max_abs_diff is not None:
        reasons = [figures["reason"], f"tokens part: {figures['parted_at']}"]
        told = "; ".join(filter(None, reasons))
        figures |= {"passed": False, "status": "failed", "reason": told}
    return {
        "rows": [row("parity", **labels, kind=KIND, **figures)],
        "quantiles": {KIND: {1: parity.quantiles(difference.cosines)}},
        "input_min_cosine": {KIND: difference.worst},
        "parted": parted,
        "settings": {"batch_sizes": list(batch_sizes), "tolerance": tolerance.describe()},
        "environment": machine.describe(),
    }


def _first(expected: np.ndarray, found: np.ndarray) -> int:
    """The first place where two texts differ; the end of the shorter one if it is their start."""
    length = min(len(expected), len(found))
    others = np.flatnonzero(expected[:length] != found[:length])
    return int(others[0]) if len(others) else length


def _margins(
    expected: np.ndarray, found: np.ndarray, place: int, theirs: np.ndarray, own: np.ndarray
) -> dict[str, float]:
    """By how much each side's logits prefer its token there; none behind the logits compared."""
    if not 0 < place < min(len(expected), len(found), len(own) + 1):
        return {}
    tokens = [int(expected[place]), int(found[place])]
    first, second = (side[place - 1, tokens] for side in (theirs, own))
    return {
        "reference_margin": float(first[0] - first[1]),
        "margin": float(second[1] - second[0]),
    }


def _told(parted: Mapping[str, Any]) -> str:
    told = "{search} search, batch size {batch_size}, input {input}, token {token}"
    if "margin" in parted:
        told += ", by {margin:.3g} of a logit for {reference_margin:.3g} in PyTorch"
    return told.format(**parted)
