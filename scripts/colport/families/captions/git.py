"""GIT (Wang et al. 2022, arXiv:2205.14100): a picture's tokens are the first ones of its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from colport.base.errors import UnsupportedError
from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import AFTER_BEGIN, CaptionFamily, Decoder


class Git(CaptionFamily):
    """``GitForCausalLM`` of transformers, for single pictures."""

    name = "git"
    model_class = "GitForCausalLM"
    attends: ClassVar[Mapping[str, str]] = {"": "eager", "vision_config": "colport"}
    prompts = AFTER_BEGIN

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        if config.num_image_with_embedding is not None:
            raise UnsupportedError(
                f"num_image_with_embedding: is {config.num_image_with_embedding}, of a model of "
                "videos; exported are models of pictures, with null."
            )
        return Decoder("git", "encoder.layer", "output")

    def text_config(self, config: Any) -> Any:
        """See :meth:`CaptionFamily.text_config`."""
        return config

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        return (model.git.visual_projection(model.git.image_encoder(pixels).last_hidden_state),)

    def decode(self, model: Any, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`; tokens of a picture attend each other both ways."""
        import torch

        ids, mask, picture = (given[n] for n in ("input_ids", "attention_mask", "image_features"))
        words = body.embeddings(input_ids=ids, position_ids=functional.positions(mask, ids))
        hidden = torch.cat([picture, words], dim=1)
        past, own = cache.get_seq_length(), hidden.shape[1]
        place = torch.arange(past + own, device=hidden.device)
        query = place[past:, None]
        attended = (place <= query) | ((query < picture.shape[1]) & (place < picture.shape[1]))
        mask = torch.nn.functional.pad(mask, (past + own - mask.shape[1], 0), value=1)
        attended = attended[None, None] & mask[:, None, None].bool()
        lowest = torch.finfo(hidden.dtype).min
        bias = torch.where(attended, hidden.new_zeros(()), lowest)
        return body.encoder(hidden, attention_mask=bias, past_key_values=cache).last_hidden_state

    def begin(self, config: Any, generation: Any) -> list[int]:
        """See :meth:`CaptionFamily.begin`."""
        return [generation.bos_token_id]

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> dict[str, Any]:
        """See :meth:`CaptionFamily.inputs`; a prompt as GIT's documentation gives it."""
        given = super().inputs(processor, images, prompt)
        if prompt is not None:
            import torch

            tokenizer = processor.tokenizer
            ids = tokenizer([prompt] * len(images), add_special_tokens=False)["input_ids"]
            given["input_ids"] = torch.tensor([[tokenizer.cls_token_id, *row] for row in ids])
        return given

    def begun(self, inputs: Mapping[str, Any]) -> int:
        """See :meth:`CaptionFamily.begun`."""
        return inputs["input_ids"].shape[1] if "input_ids" in inputs else 1

    def logits(self, model: Any, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor:
        """See :meth:`CaptionFamily.logits`."""
        found = model(pixel_values=inputs["pixel_values"], input_ids=tokens).logits
        return found[:, -tokens.shape[1] :]


FAMILIES = (Git(),)
