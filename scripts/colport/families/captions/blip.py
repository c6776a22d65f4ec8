"""BLIP (Li et al. 2022, arXiv:2201.12086): its captioning head on a picture and a beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.base.errors import UnsupportedError
from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import AFTER_BEGIN, CaptionFamily, Decoder


class Blip(CaptionFamily):
    """``BlipForConditionalGeneration`` of transformers."""

    name = "blip"
    model_class = "BlipForConditionalGeneration"
    prompts = AFTER_BEGIN

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        cross = "crossattention.self.key", "crossattention.self.value"
        return Decoder("text_decoder.bert", "encoder.layer", "text_decoder.cls", cross)

    def text_config(self, config: Any) -> Any:
        """See :meth:`CaptionFamily.text_config`."""
        return config.text_config

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        return (model.vision_model(pixel_values=pixels).last_hidden_state,)

    def decode(self, model: Any, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`."""
        import torch

        ids, mask = given["input_ids"], given["attention_mask"]
        torch._check(mask.shape[1] == cache.get_seq_length() + ids.shape[1])
        return body(
            input_ids=ids,
            attention_mask=mask,
            position_ids=functional.positions(mask, ids),
            encoder_hidden_states=given["encoder_hidden_states"],
            past_key_values=cache,
            use_cache=True,
            is_decoder=True,
        ).last_hidden_state

    def begin(self, config: Any, generation: Any) -> list[int]:
        """See :meth:`CaptionFamily.begin`."""
        return [config.text_config.bos_token_id]

    def generation(self, folder: Path, config: Any) -> Any:
        """See :meth:`CaptionFamily.generation`; its decoder generates, by settings of its own."""
        from transformers import GenerationConfig

        found = GenerationConfig.from_model_config(config.text_config)
        found.eos_token_id = config.text_config.sep_token_id
        return found

    def prompt_settings(self, processor: Any, config: Any) -> Mapping[str, Any] | None:
        """See :meth:`CaptionFamily.prompt_settings`.

        Raises:
            UnsupportedError: The library would take other tokens from a prompt than the one before
                it, in whose place it puts its own, and the one behind it.
        """
        ids, bare = (
            processor.tokenizer("a", add_special_tokens=special)["input_ids"]
            for special in (True, False)
        )
        if ids[1:-1] != bare:
            raise UnsupportedError(
                f"the tokenizer writes 'a' as {ids}, without special tokens as {bare}; exported "
                "is one special token on each side."
            )
        return self.prompts

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> dict[str, Any]:
        """See :meth:`CaptionFamily.inputs`."""
        given = super().inputs(processor, images, prompt)
        if prompt is not None:
            text = processor.tokenizer([prompt] * len(images), return_tensors="pt")
            given |= {name: text[name] for name in ("input_ids", "attention_mask")}
        return given

    def begun(self, inputs: Mapping[str, Any]) -> int:
        """See :meth:`CaptionFamily.begun`."""
        return inputs["input_ids"].shape[1] - 1 if "input_ids" in inputs else 1

    def logits(self, model: Any, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor:
        """See :meth:`CaptionFamily.logits`."""
        return model(pixel_values=inputs["pixel_values"], input_ids=tokens).logits


FAMILIES = (Blip(),)
