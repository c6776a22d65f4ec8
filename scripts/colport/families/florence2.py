"""Florence-2 (Xiao et al. 2023, arXiv:2311.06242): DaViT, and BART that reads picture and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import CaptionFamily, Decoder, Given
from colport.hub.checkpoints import reading

_CROSS = "encoder_attn.k_proj", "encoder_attn.v_proj"


class Florence2(CaptionFamily):
    """``Florence2ForConditionalGeneration`` of transformers, with its task prompts."""

    name = "florence2"
    model_class = "Florence2ForConditionalGeneration"
    attends: ClassVar[Mapping[str, str]] = {"": "colport", "vision_config": "colport_viewed"}
    reader = "encoder"

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        return Decoder("model.language_model.decoder", "layers", "lm_head", _CROSS)

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        import torch

        ids, asked = prompt
        picture = model.get_image_features(pixels).pooler_output
        words = torch.cat([picture, model.get_input_embeddings()(ids)], dim=1)
        mask = torch.nn.functional.pad(asked, (picture.shape[1], 0), value=1)
        encoder = model.model.language_model.encoder
        return encoder(inputs_embeds=words, attention_mask=mask).last_hidden_state, mask

    def decode(self, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`."""
        ids, mask = given["input_ids"], given["encoder_attention_mask"]
        bias = functional.attention_bias(mask, body.dtype, causal=False)
        known = {name: given[name] for name in ("input_ids", "encoder_hidden_states")}
        known["encoder_attention_mask"] = bias.expand(-1, -1, ids.shape[1], -1)
        return body(**known, past_key_values=cache, use_cache=True).last_hidden_state

    def prompts(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`CaptionFamily.prompts`."""
        tokenizer = processor.tokenizer
        template = f"{tokenizer.bos_token}{{text}}{tokenizer.eos_token}"
        tasks = processor.task_prompts_without_inputs | processor.task_prompts_with_input
        return {"reader": self.reader, "template": template, "tasks": tasks}

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> Given:
        """See :meth:`CaptionFamily.inputs`."""
        return dict(processor(images, [prompt or ""] * len(images), return_tensors="pt")), 1

    def processor(self, folder: Path) -> Any:
        """See :meth:`Family.processor`."""
        from transformers import Florence2Processor

        with reading(folder, "transformers"):
            return Florence2Processor.from_pretrained(folder, trust_remote_code=False)


FAMILIES = (Florence2(),)
