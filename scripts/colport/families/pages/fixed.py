"""What models share whose pages have one fixed size, hence a fixed number of tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.foreign import shape_beside
from colport.families.base import Batch, Document, GraphInput, PatchGrid, Tensor
from colport.families.pages.base import Fact, PageFamily, PageRuntime, Tensors
from colport.families.pages.images import normalise, planes, resize
from colport.families.pages.layouts import CheckpointLayout


class FixedRuntime(PageRuntime):
    """Pages resized to one size, with one prompt."""

    own_settings = shape_beside(__file__)

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__(settings, folder)
        self._document_ids = self._tokens.encode([settings["document_prompt"]])[0]

    def page(self, page: Document) -> np.ndarray:
        """See :meth:`PageRuntime.page`; ``float32 [channels, height, width]``."""
        image = self._image
        pixels = resize(planes(page), image["height"], image["width"], image["resample"])
        return normalise(pixels, image["scale"], image["mean"], image["std"])

    def page_batch(self, pages: Sequence[np.ndarray]) -> Batch:
        """See :meth:`PageRuntime.page_batch`."""
        tokens = self._tokens.pad([self._document_ids] * len(pages))
        return self._batch("image", tokens, pixel_values=np.stack(pages))

    def page_length(self, page: Document) -> int:
        """See :meth:`PageRuntime.page_length`; that of every page."""
        return len(self._document_ids)

    def grid(self, page: Document) -> PatchGrid:
        """See :meth:`PageRuntime.grid`; every page is made the same square."""
        ((image_token, count),) = Counter(self._document_ids).most_common(1)
        side = math.isqrt(count)
        return PatchGrid.block(side, side, self._document_ids.index(image_token))


class FixedFamily(PageFamily):
    """A vision tower on a whole page, and a language model that has all of its features."""

    runtime_class = FixedRuntime

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`."""
        vision = config.vision_config
        pixels = (2, vision.num_channels, vision.image_size, vision.image_size)
        return (GraphInput("pixel_values", "float32", pixels, {0: "batch"}),)

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """See :meth:`PageFamily.embed_pages`."""
        pixels = inputs["pixel_values"].to(backbone.dtype)
        return (backbone.get_image_features(pixels).pooler_output.flatten(0, 1),)

    @abstractmethod
    def page_tokens(self, config: Any) -> int:
        """Image features that the model makes of a page, for a backbone's configuration."""

    def agreed(self, layout: CheckpointLayout, processor: Any, config: Any) -> Iterable[Fact]:
        """See :meth:`PageFamily.agreed`."""
        for side in ("height", "width"):
            found = processor.image_processor.size[side]
            yield side, found, config.vision_config.image_size
        prompt = self.prompts(layout, processor)["document_prompt"]
        count = processor.tokenizer(prompt)["input_ids"].count(config.image_token_id)
        yield "number of image tokens", count, self.page_tokens(config)

    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        return {"height": processor.size["height"], "width": processor.size["width"]}
