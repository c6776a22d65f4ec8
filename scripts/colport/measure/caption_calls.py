"""A captioner as latency runs call it, ours or its checkpoint's own library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class CaptionCalls:
    """What is timed of a captioner; greedily, and as many tokens of every picture.

    Args:
        captioner: A :class:`colport.runtime.captioner.Captioner`, or a library's ``Generator``.
        tokens: Tokens of a caption.
        **settings: Of its ``generate_tokens``.
    """

    def __init__(self, captioner: Any, tokens: int, **settings: Any) -> None:
        self._captioner, self._tokens = captioner, tokens
        self._settings = {"num_beams": 1, **settings}

    def encode_pictures(self, pictures: Sequence[Any], batch_size: int = 0) -> list[np.ndarray]:
        """What the decoder reads of each picture, ``float32 [source, width]``."""
        return list(self._captioner.encode_pictures(pictures))

    def first_tokens(self, pictures: Sequence[Any], batch_size: int = 0) -> list[np.ndarray]:
        """The first token of each caption, ``int64 [1, 1]``."""
        return self._generated(pictures, 1)

    def captions(self, pictures: Sequence[Any], batch_size: int = 0) -> list[np.ndarray]:
        """The tokens of each caption, ``int64 [tokens, 1]``."""
        return self._generated(pictures, self._tokens)

    def _generated(self, pictures: Sequence[Any], tokens: int) -> list[np.ndarray]:
        length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        found = self._captioner.generate_tokens(pictures, **length, **self._settings)
        return [ids[-tokens:, None] for ids in found]
