"""ColGemma3: Gemma 3 with a projection, as Cognitive-Lab/ColNetraEmbed.

Pages have one fixed size. The language model is causal, and the image tokens of a page see each
other; most layers see a window only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from colport.families.base import Tensor
from colport.families.pages.base import Tensors, chat_query
from colport.families.pages.fixed import FixedFamily
from colport.families.pages.layouts import CheckpointLayout, EngineLayout

_OLDER = {r"^language_model\.model\.": "language_model."}


class ColGemma3(FixedFamily):
    """``ColGemma3`` of colpali-engine."""

    name = "colgemma3"
    reserved = ("<start_of_image>",)
    images_class = "Gemma3ImageProcessor"
    image_steps = (("do_pan_and_scan", (None, False)),)
    text_steps = (("use_bidirectional_attention", (None, False)),)
    layouts = (EngineLayout("ColGemma3", "gemma3", processor="ColGemmaProcessor3", older=_OLDER),)

    def page_tokens(self, config: Any) -> int:
        """See :meth:`FixedFamily.page_tokens`; squares of patches are averaged."""
        patches = config.vision_config.image_size // config.vision_config.patch_size
        return (patches // (patches // math.isqrt(config.mm_tokens_per_image))) ** 2

    def hidden_states(self, backbone: Any, words: Tensor, inputs: Tensors) -> Tensor:
        """See :meth:`PageFamily.hidden_states`; with the masks that transformers makes itself."""
        from transformers.models.gemma3 import Gemma3Model

        return Gemma3Model.forward(
            backbone,
            inputs_embeds=words,
            attention_mask=inputs["attention_mask"],
            token_type_ids=(inputs["input_ids"] == backbone.config.image_token_id).long(),
            use_cache=False,
        ).last_hidden_state

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""

        def written(*content: Mapping[str, str]) -> str:
            message = {"role": "user", "content": content}
            return processor.tokenizer.apply_chat_template([message], tokenize=False)

        page = written({"type": "image"}, {"type": "text", "text": "Describe this image"})
        document = page.replace(processor.boi_token, processor.full_image_sequence)
        query = written({"type": "text", "text": "Query: {text}"})
        return {**chat_query(processor, query), "document_prompt": document}
