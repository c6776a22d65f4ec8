"""Vision-encoder-decoder models: ViT-GPT2, TrOCR (Li et al. 2021, arXiv:2109.10282) and Donut
(Kim et al. 2021, arXiv:2111.15664)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.base.errors import UnsupportedError
from colport.families.base import Tensor
from colport.families.captions.base import AFTER_BEGIN, CaptionFamily, Decoder
from colport.tensors.weights import StoredTensor

_ENCODERS = ("vit", "deit", "donut-swin")
_BART = "decoder.model.decoder", "layers"
_BART_CROSS = "encoder_attn.k_proj", "encoder_attn.v_proj"
_DECODERS = {
    "gpt2": Decoder("decoder.transformer", "h", "decoder.lm_head", ("crossattention.c_attn",)),
    "trocr": Decoder(*_BART, "decoder.output_projection", _BART_CROSS),
    "mbart": Decoder(*_BART, "decoder.lm_head", _BART_CROSS),
}


class VisionEncoderDecoder(CaptionFamily):
    """``VisionEncoderDecoderModel`` of transformers; Donut's prompts replace its start."""

    name = "vision-encoder-decoder"
    model_class = "VisionEncoderDecoderModel"

    def decoder(self, config: Any) -> Decoder:
        """See :meth:`CaptionFamily.decoder`."""
        for part, known in (("encoder", _ENCODERS), ("decoder", _DECODERS)):
            if (kind := getattr(config, part).model_type) not in known:
                raise UnsupportedError(
                    f"{part}.model_type: {kind!r} is not exported; allowed are {', '.join(known)}."
                )
        return _DECODERS[config.decoder.model_type]

    def build(
        self, folder: Path, precision: str, *, to_trace: bool = True
    ) -> tuple[Any, dict[str, Tensor], dict[str, StoredTensor]]:
        """See :meth:`CaptionFamily.build`; TrOCR's sines are a buffer like any other."""
        model, constants, tensors = super().build(folder, precision, to_trace=to_trace)
        self.complete(model)
        for name, module in _sines(model) if to_trace else ():
            constants[f"{name}.weights"] = table = vars(module).pop("weights")
            module.register_buffer("weights", table.to("meta"), persistent=False)
        return model, constants, tensors

    def complete(self, model: Any) -> None:
        """See :meth:`CaptionFamily.complete`; transformers 5 forgets TrOCR's table of sines."""
        for _, module in _sines(model):
            table, given = module.weights, (module.embedding_dim, module.padding_idx)
            module.weights = module.get_embedding(len(table), *given).to(table.dtype)

    def text_config(self, config: Any) -> Any:
        """See :meth:`CaptionFamily.text_config`."""
        return config.decoder

    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`CaptionFamily.encode`."""
        states = model.encoder(pixel_values=pixels).last_hidden_state
        is_narrow = hasattr(model, "enc_to_dec_proj")
        return (model.enc_to_dec_proj(states) if is_narrow else states,)

    def prompt_settings(self, processor: Any, config: Any) -> Mapping[str, Any] | None:
        """See :meth:`CaptionFamily.prompt_settings`."""
        if config.encoder.model_type != "donut-swin":
            return None
        return {**AFTER_BEGIN, "behind_begin": False}

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> dict[str, Any]:
        """See :meth:`CaptionFamily.inputs`."""
        given = super().inputs(processor, images, prompt)
        if prompt:
            given["decoder_input_ids"] = processor.tokenizer(
                [prompt] * len(images), add_special_tokens=False, return_tensors="pt"
            ).input_ids
        return given


def _sines(model: Any) -> list[tuple[str, Any]]:
    """TrOCR's modules of positions that are not learned, by name."""
    kind = "TrOCRSinusoidalPositionalEmbedding"
    return [(name, it) for name, it in model.named_modules() if type(it).__name__ == kind]


FAMILIES = (VisionEncoderDecoder(),)
