"""Florence-2 (Xiao et al. 2023, arXiv:2311.06242): DaViT, and BART that reads picture and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import CaptionFamily, Decoder
from colport.hub.checkpoints import reading


class Florence2(CaptionFamily):
    """``Florence2ForConditionalGeneration`` of transformers, with its task prompts."""

    name = "florence2"
    model_class = "Florence2ForConditionalGeneration"
    attends: ClassVar[Mapping[str, str]] = {"": "colport", "vision_config": "colport_viewed"}
    image_inputs = ("prompt_ids", "prompt_mask")

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        cross = "encoder_attn.k_proj", "encoder_attn.v_proj"
        return Decoder("model.language_model.decoder", "layers", "lm_head", cross)

    def text_config(self, config: Any) -> Any:
        """See :meth:`CaptionFamily.text_config`."""
        return config.text_config

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        import torch

        ids, asked = prompt
        picture = model.get_image_features(pixels).pooler_output
        words = torch.cat([picture, model.get_input_embeddings()(ids)], dim=1)
        mask = torch.nn.functional.pad(asked, (picture.shape[1], 0), value=1)
        encoder = model.model.language_model.encoder
        return encoder(inputs_embeds=words, attention_mask=mask).last_hidden_state, mask

    def decode(self, model: Any, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`."""
        ids, mask = given["input_ids"], given["encoder_attention_mask"]
        bias = functional.attention_bias(mask, given["encoder_hidden_states"].dtype, causal=False)
        return body(
            input_ids=ids,
            encoder_hidden_states=given["encoder_hidden_states"],
            encoder_attention_mask=bias.expand(-1, -1, ids.shape[1], -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def prompt_settings(self, processor: Any, config: Any) -> Mapping[str, Any] | None:
        """See :meth:`CaptionFamily.prompt_settings`."""
        tokenizer = processor.tokenizer
        return {
            "reader": "encoder",
            "behind_begin": False,
            "template": f"{tokenizer.bos_token}{{text}}{tokenizer.eos_token}",
            "tasks": processor.task_prompts_without_inputs | processor.task_prompts_with_input,
        }

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> dict[str, Any]:
        """See :meth:`CaptionFamily.inputs`."""
        return dict(processor(images, [prompt or ""] * len(images), return_tensors="pt"))

    def processor(self, folder: Path) -> Any:
        """See :meth:`Family.processor`."""
        from transformers import Florence2Processor

        with reading(folder, "transformers"):
            return Florence2Processor.from_pretrained(folder, trust_remote_code=False)


FAMILIES = (Florence2(),)
