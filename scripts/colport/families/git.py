"""GIT (Wang et al. 2022, arXiv:2205.14100): a picture's tokens are the first ones of its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from colport.base.errors import UnsupportedError
from colport.families import functional
from colport.families.base import Tensor
from colport.families.captions.base import CaptionFamily, Decoder


class Git(CaptionFamily):
    """``GitForCausalLM`` of transformers, for single pictures."""

    name = "git"
    model_class = "GitForCausalLM"
    attends: ClassVar[Mapping[str, str]] = {"": "eager", "vision_config": "colport"}
    reader = "text"

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        if config.num_image_with_embedding is not None:
            raise UnsupportedError(
                f"config.json: num_image_with_embedding is {config.num_image_with_embedding}, of a "
                "model of videos; exported is null."
            )
        return Decoder("git", "encoder.layer", "output")

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        return (model.git.visual_projection(model.git.image_encoder(pixels).last_hidden_state),)

    def decode(self, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """See :meth:`CaptionFamily.decode`; tokens of a picture attend each other both ways."""
        import torch

        ids, mask, picture = (given[n] for n in ("input_ids", "attention_mask", "image_features"))
        words = body.embeddings(input_ids=ids, position_ids=functional.positions(mask, ids))
        hidden = torch.cat([picture, words], dim=1)
        past, first = cache.get_seq_length(), picture.shape[1]
        place = torch.arange(past + hidden.shape[1], device=hidden.device)
        query = place[past:, None]
        attended = (place <= query) | ((query < first) & (place < first))
        mask = torch.nn.functional.pad(mask, (place.shape[0] - mask.shape[1], 0), value=1)
        attended = attended[None, None] & mask[:, None, None].bool()
        bias = torch.where(attended, hidden.new_zeros(()), torch.finfo(hidden.dtype).min)
        return body.encoder(hidden, attention_mask=bias, past_key_values=cache).last_hidden_state

    def prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """See :meth:`CaptionFamily.prompt_ids`; as GIT's documentation has it."""
        return [tokenizer.cls_token_id, *super().prompt_ids(tokenizer, prompt)]


FAMILIES = (Git(),)
