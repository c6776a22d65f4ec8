"""ColPali: PaliGemma with a projection (Faysse et al. 2024, arXiv:2407.01449).

Pages have one fixed size, hence a fixed number of tokens. The whole prompt attends to itself in
both directions, and positions start at 1.
"""

from __future__ import annotations

from typing import Any

from colport.families import functional
from colport.families.base import Tensor
from colport.families.pages.base import Tensors, query_template
from colport.families.pages.fixed import FixedFamily
from colport.families.pages.layouts import CheckpointLayout, EngineLayout, TransformersLayout


class ColPali(FixedFamily):
    """``ColPaliForRetrieval`` of transformers, ``ColPali`` of colpali-engine."""

    name = "colpali"
    reserved = ("<image>",)
    images_class = "SiglipImageProcessor"
    image_token_has_no_row = True
    text_steps = (("use_bidirectional_attention", (True,)),)
    layouts = (
        TransformersLayout("ColPali", "paligemma"),
        # colpali-engine gives queries no types. transformers 5 then makes a batch with padding
        # causal, yet not a single query; ColPali was trained to attend both ways.
        EngineLayout("ColPali", "paligemma", "model.model", zeros=("token_type_ids",)),
    )

    def page_tokens(self, config: Any) -> int:
        """See :meth:`FixedFamily.page_tokens`."""
        return (config.vision_config.image_size // config.vision_config.patch_size) ** 2

    def embed_words(self, backbone: Any, input_ids: Tensor) -> Tensor:
        """Word embeddings; an image token beyond the vocabulary reads row 0, as in PaliGemma."""
        if backbone.config.image_token_id >= backbone.vocab_size:
            input_ids = input_ids.masked_fill(self.is_image(backbone, input_ids), 0)
        return super().embed_words(backbone, input_ids)

    def hidden_states(self, backbone: Any, words: Tensor, inputs: Tensors) -> Tensor:
        """See :meth:`PageFamily.hidden_states`; the model counts positions from 1 on."""
        mask = functional.attention_bias(inputs["attention_mask"], words.dtype)
        return backbone(inputs_embeds=words, attention_mask=mask, use_cache=False).last_hidden_state

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""
        bos, token = processor.tokenizer.bos_token, processor.image_token
        # colpali-engine's prefix brings an image token, and a second beginning-of-sequence token.
        prefix = processor.visual_prompt_prefix.removeprefix(token)
        return {
            "query_template": query_template(layout, processor, start=bos),
            "document_prompt": f"{token * processor.image_seq_length}{bos}{prefix}\n",
        }
