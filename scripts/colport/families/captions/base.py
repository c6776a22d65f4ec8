"""What captioners share: their two graphs, their preprocessing, and their library's ``generate``.

``image.onnx`` is run once for a batch of pictures, ``decoder.onnx`` once for what a text begins
with and once for each token behind it. What the decoder takes of the image graph's outputs has the
same name in both: ``cross_key_values.{layer}.key|value`` of models with cross-attention, also
``encoder_attention_mask`` where sources differ in length, or ``image_features``, which models whose
pictures are the first tokens of the text take in the first call, and as zero tokens afterwards.
Beside them the decoder takes

- ``input_ids int64 [batch, tokens]``: tokens that are not in the cache yet;
- ``attention_mask int64 [batch, text_tokens]``, only where texts may begin with prompts of unequal
  length: of all text tokens up to now, padding on the left; a picture's tokens do not count;
- ``past_key_values.{layer}.key|value [batch, heads, past_tokens, head_dim]``: the last call's
  ``present.{layer}.key|value``, in the first call of zero tokens;

and gives ``logits float32 [batch, 1, vocabulary]`` of each text's last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colport.families.base import Feeds


@dataclass(frozen=True)
class Beginning:
    """What is known before the first token is generated.

    Attributes:
        feeds: Inputs of the image graph: ``pixel_values float32 [batch, 3, height, width]``, and
            where its encoder reads prompts ``prompt_ids`` and ``prompt_mask``, both
            ``int64 [batch, prompt_tokens]``.
        tokens: Ids that each text begins with, at least one; generated ids come behind them. Rows
            of unequal length share a call only if the decoder has an ``attention_mask``.
    """

    feeds: Feeds
    tokens: Sequence[Sequence[int]]


class CaptionRuntime:
    """Torch-free preparation of one exported captioner; methods change nothing.

    Args:
        settings: The ``processing`` section of ``colport.json``.
        folder: The exported folder.

    Attributes:
        generation: The checkpoint's own generation settings, by the names of transformers'
            ``GenerationConfig``; only those that it sets, ids of tokens as lists or numbers.
        positions: Tokens that a text may have at most, prompt included.
    """

    generation: Mapping[str, Any]
    positions: int

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        raise NotImplementedError

    def picture(self, image: Image.Image) -> np.ndarray:
        """One RGB picture as the model takes it, ``float32 [3, height, width]``."""
        raise NotImplementedError

    def begin(self, pictures: Sequence[np.ndarray], prompts: Sequence[str | None]) -> Beginning:
        """Inputs of a batch.

        Args:
            pictures: What :meth:`picture` gave for each.
            prompts: One for each picture, ``None`` for the model's own beginning.

        Raises:
            InputError: The model takes no prompts, or not this one; argument ``prompts``.
        """
        raise NotImplementedError

    def text(self, tokens: Sequence[int], begun: int) -> str:
        """A text of its ids, as the library's processor decodes it.

        Args:
            tokens: What it began with and what was generated, padding and end included.
            begun: How many of them it began with, padding on the left included.
        """
        raise NotImplementedError
