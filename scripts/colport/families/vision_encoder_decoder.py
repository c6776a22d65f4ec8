"""Vision-encoder-decoder models: ViT-GPT2, TrOCR (Li et al. 2021, arXiv:2109.10282) and Donut
(Kim et al. 2021, arXiv:2111.15664)."""

from __future__ import annotations

from typing import Any

from colport.base.errors import UnsupportedError
from colport.families.base import Tensor
from colport.families.captions.base import CaptionFamily, Decoder

_BART = "decoder.model.decoder", "layers"
_BART_CROSS = "encoder_attn.k_proj", "encoder_attn.v_proj"
_DECODERS = {
    "gpt2": Decoder("decoder.transformer", "h", "decoder.lm_head", ("crossattention.c_attn",)),
    "trocr": Decoder(*_BART, "decoder.output_projection", _BART_CROSS),
    "mbart": Decoder(*_BART, "decoder.lm_head", _BART_CROSS),
}
_DONUT = "donut-swin"
_KNOWN = (
    ("encoder", "model_type", ("vit", "deit", _DONUT)),
    ("decoder", "model_type", tuple(_DECODERS)),
    # Of TrOCR: transformers 5 forgets a table of sines when it reads a checkpoint.
    ("decoder", "use_learned_position_embeddings", (True,)),
)


class VisionEncoderDecoder(CaptionFamily):
    """``VisionEncoderDecoderModel`` of transformers; Donut's prompts replace its start."""

    name = "vision-encoder-decoder"
    model_class = "VisionEncoderDecoderModel"

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        for part, key, allowed in _KNOWN:
            if (found := getattr(getattr(config, part), key, allowed[0])) not in allowed:
                raise UnsupportedError(
                    f"config.json: {part}.{key} is {found!r}; exported is "
                    f"{' or '.join(map(str, allowed))}."
                )
        return _DECODERS[config.decoder.model_type]

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        states = model.encoder(pixel_values=pixels).last_hidden_state
        return (model.enc_to_dec_proj(states) if hasattr(model, "enc_to_dec_proj") else states,)

    def prompts(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`CaptionFamily.prompts`."""
        reader = "start" if config.encoder.model_type == _DONUT else "none"
        return {**super().prompts(processor, config), "reader": reader}


FAMILIES = (VisionEncoderDecoder(),)
