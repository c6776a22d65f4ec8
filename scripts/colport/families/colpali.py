"""ColPali: PaliGemma with a projection (Faysse et al. 2024, arXiv:2407.01449).

Pages have one fixed size, hence a fixed number of tokens. The whole prompt attends to itself in
both directions, and positions start at 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.base.errors import UnsupportedError
from colport.base.foreign import shape_beside
from colport.families import functional
from colport.families.base import Batch, Document, GraphInput, PatchGrid, Runtime
from colport.families.pages.base import PageFamily, PageRuntime, Tensors, query_template
from colport.families.pages.images import normalise, planes, resize
from colport.families.pages.layouts import CheckpointLayout, EngineLayout, TransformersLayout
from colport.families.tokens import TokenBatch

if TYPE_CHECKING:
    import torch


class ColPali(PageFamily):
    """``ColPaliForRetrieval`` of transformers, ``ColPali`` of colpali-engine."""

    name = "colpali"
    reserved = ("<image>",)
    image_token_has_no_row = True
    layouts = (
        TransformersLayout("ColPali", "paligemma"),
        # colpali-engine gives queries no types. transformers 5 then makes a batch with padding
        # causal, yet not a single query; ColPali was trained to attend both ways.
        EngineLayout("ColPali", "paligemma", "model.model", zeros=("token_type_ids",)),
    )

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        super().prepare(backbone)
        if not backbone.config.text_config.use_bidirectional_attention:
            raise UnsupportedError("text_config: causal layers are not exported yet.")

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`."""
        vision = config.vision_config
        pixels = (2, vision.num_channels, vision.image_size, vision.image_size)
        return (GraphInput("pixel_values", "float32", pixels, {0: "batch"}),)

    def embed_words(self, backbone: Any, input_ids: torch.Tensor) -> torch.Tensor:
        """Word embeddings; an image token beyond the vocabulary reads row 0, as in PaliGemma."""
        import torch

        image_token = backbone.config.image_token_id
        if image_token >= backbone.vocab_size:
            input_ids = torch.where(input_ids == image_token, 0, input_ids)
        return super().embed_words(backbone, input_ids)

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[torch.Tensor]:
        """See :meth:`PageFamily.embed_pages`."""
        pixels = inputs["pixel_values"].to(backbone.dtype)
        return (backbone.get_image_features(pixels).pooler_output.flatten(0, 1),)

    def hidden_states(self, backbone: Any, words: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        """See :meth:`PageFamily.hidden_states`."""
        import torch

        mask = inputs["attention_mask"]
        return backbone.language_model(
            inputs_embeds=words,
            attention_mask=functional.attention_bias(mask, words.dtype, causal=False),
            position_ids=torch.arange(words.shape[1], device=words.device).unsqueeze(0) + 1,
            use_cache=False,
        ).last_hidden_state

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""
        bos, token = processor.tokenizer.bos_token, processor.image_token
        # colpali-engine's prefix brings an image token, and a second beginning-of-sequence token.
        prefix = processor.visual_prompt_prefix.removeprefix(token)
        return {
            "query_template": query_template(layout, processor, start=bos),
            "document_prompt": f"{token * processor.image_seq_length}{bos}{prefix}\n",
        }

    def image_settings(self, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        return {"height": processor.size["height"], "width": processor.size["width"]}

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> Runtime:
        """See :meth:`Family.runtime`."""
        return _Runtime(settings, folder)


class _Runtime(PageRuntime):
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
        ids = np.tile(np.asarray(self._document_ids, np.int64), (len(pages), 1))
        tokens = TokenBatch(ids, np.ones_like(ids))
        return self._batch("image", tokens, pixel_values=np.stack(pages))

    def page_length(self, page: Document) -> int:
        """See :meth:`PageRuntime.page_length`; that of every page."""
        return len(self._document_ids)

    def grid(self, page: Document) -> PatchGrid:
        """See :meth:`PageRuntime.grid`; every page is made the same square."""
        ((image_token, count),) = Counter(self._document_ids).most_common(1)
        side = math.isqrt(count)
        return PatchGrid.block(side, side, self._document_ids.index(image_token))


FAMILIES = (ColPali(),)
