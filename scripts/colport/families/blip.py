"""BLIP (Li et al. 2022, arXiv:2201.12086): its captioning head on a picture and a beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.base.errors import UnsupportedError
from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import CaptionFamily, Decoder, Given

_CROSS = "crossattention.self.key", "crossattention.self.value"


class Blip(CaptionFamily):
    """``BlipForConditionalGeneration`` of transformers."""

    name = "blip"
    model_class = "BlipForConditionalGeneration"
    reader = "text"

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        return Decoder("text_decoder.bert", "encoder.layer", "text_decoder.cls", _CROSS)

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        return (model.vision_model(pixel_values=pixels).last_hidden_state,)

    def decode(self, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`."""
        import torch

        ids, mask = given["input_ids"], given["attention_mask"]
        torch._check(mask.shape[1] == cache.get_seq_length() + ids.shape[1])
        places, known = functional.positions(mask, ids), {**given, "is_decoder": True}
        names = ("input_ids", "attention_mask", "encoder_hidden_states", "is_decoder")
        known = {name: known[name] for name in names}
        states = {"past_key_values": cache, "use_cache": True}
        return body(**known, **states, position_ids=places).last_hidden_state

    def generation(self, folder: Path, config: Any) -> Any:
        """See :meth:`CaptionFamily.generation`; its decoder generates, by settings of its own."""
        from transformers import GenerationConfig

        text = config.text_config
        found = GenerationConfig.from_model_config(text)
        found.eos_token_id, found.decoder_start_token_id = text.sep_token_id, text.bos_token_id
        return found

    def prompts(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`CaptionFamily.prompts`.

        Raises:
            UnsupportedError: The library would take other tokens from a prompt than the one before
                it, in whose place it puts its own, and the one behind it.
        """
        bare = processor.tokenizer("a", add_special_tokens=False)["input_ids"]
        if (ids := processor.tokenizer("a")["input_ids"])[1:-1] != bare:
            raise UnsupportedError(
                f"the tokenizer writes 'a' as {ids}, without special tokens as {bare}; exported "
                "is one special token on each side."
            )
        return super().prompts(processor, config)

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> Given:
        """See :meth:`CaptionFamily.inputs`; the library drops the last token of a prompt."""
        given, begun = super().inputs(processor, images, prompt)
        return given, begun - ("input_ids" in given)

    def prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """See :meth:`CaptionFamily.prompt_ids`."""
        return tokenizer(prompt)["input_ids"]


FAMILIES = (Blip(),)
