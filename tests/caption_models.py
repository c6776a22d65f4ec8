"""Tiny captioners with random weights and a tokenizer of words, saved by transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["a", "red", "blue", "circle", "square", "on", "page", "what", "does", "the", "image", "?"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TAGS = ["<image>", "<s_task>", "</s_task>", "<loc_0>"]
VOCABULARY = 64
LAYERS, HEADS, WIDTH, POSITIONS = 3, 4, 32, 48
_VIT = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
_VIT |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_TEXT = {"vocab_size": VOCABULARY, **_IDS}


def tokenizer() -> Any:
    """Whole words and special tokens, all of the vocabulary's ids."""
    names = [*SPECIAL, *WORDS]
    names += [f"word{number}" for number in range(VOCABULARY - len(names) - len(TAGS))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece("##", cleanup=False)
    pair = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=pair)
    backend.add_special_tokens([AddedToken(tag, special=True) for tag in TAGS])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    named |= {"cls_token": "<s>", "sep_token": "</s>"}
    named["extra_special_tokens"] = {"image_token": TAGS[0]}
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    found.model_input_names = ["input_ids", "attention_mask"]
    return found


def _bart(**settings: Any) -> dict[str, Any]:
    known = {"d_model": WIDTH, "decoder_layers": LAYERS, "decoder_attention_heads": HEADS}
    known |= {"decoder_ffn_dim": 64, "max_position_embeddings": POSITIONS, "is_decoder": True}
    return {**_TEXT, **known, "add_cross_attention": True, **settings}


def _pair(encoder: Any, decoder: Any) -> Any:
    made = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return transformers.VisionEncoderDecoderModel(made)


def vit_gpt2(**settings: Any) -> Any:
    known = {"n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    known |= {"is_decoder": True, "add_cross_attention": True}
    decoder = transformers.GPT2Config(**_TEXT, **{**known, **settings})
    return _pair(transformers.ViTConfig(**_VIT), decoder)


def trocr(**settings: Any) -> Any:
    decoder = transformers.TrOCRConfig(**_bart(cross_attention_hidden_size=24, **settings))
    return _pair(transformers.DeiTConfig(**_VIT), decoder)


def donut(**settings: Any) -> Any:
    swin = {"image_size": [32, 64], "patch_size": 4, "embed_dim": 16, "depths": [1, 2]}
    encoder = transformers.DonutSwinConfig(**swin, num_heads=[2, 4], window_size=4)
    decoder = transformers.MBartConfig(**_bart(encoder_layers=LAYERS, **settings))
    return _pair(encoder, decoder)


def blip(**settings: Any) -> Any:
    known = {"hidden_size": WIDTH, "encoder_hidden_size": 24, "num_hidden_layers": LAYERS}
    known |= {"num_attention_heads": HEADS, "intermediate_size": 64, "sep_token_id": 2}
    known |= {"max_position_embeddings": POSITIONS, "is_decoder": True}
    config = transformers.BlipConfig(text_config={**_TEXT, **known, **settings}, vision_config=_VIT)
    return transformers.BlipForConditionalGeneration(config)


def git(**settings: Any) -> Any:
    known = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    known |= {"intermediate_size": 64, "max_position_embeddings": POSITIONS}
    config = transformers.GitConfig(**_TEXT, **{**known, **settings}, vision_config=_VIT)
    return transformers.GitForCausalLM(config)


def florence2(**settings: Any) -> Any:
    vision = {"embed_dim": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "num_groups": [1, 2, 3, 4]}
    vision |= {"depths": [1, 1, 1, 1], "patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2]}
    vision |= {"patch_padding": [3, 1, 1, 1], "patch_prenorm": [False, True, True, True]}
    vision |= {"window_size": 4, "projection_dim": WIDTH, "max_temporal_embeddings": 10}
    vision |= {"max_position_embeddings": 10}
    text = _bart(encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=64)
    text |= {"model_type": "bart", "decoder_start_token_id": 2, **settings}
    image_token = VOCABULARY - len(TAGS)
    config = transformers.Florence2Config(
        text_config=text, vision_config=vision, image_token_id=image_token
    )
    return transformers.Florence2ForConditionalGeneration(config)


MODELS: dict[str, Callable[..., Any]] = {
    "vit-gpt2": vit_gpt2,
    "trocr": trocr,
    "donut": donut,
    "blip": blip,
    "git": git,
    "florence2": florence2,
}


def _images(name: str) -> Any:
    size = {"height": 32, "width": 32}
    if name == "donut":
        return transformers.DonutImageProcessor(size={"height": 32, "width": 64})
    if name == "florence2":
        size = {"height": 64, "width": 64}
        return transformers.CLIPImageProcessor(size=size, do_center_crop=False, image_seq_length=5)
    if name == "git":
        return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    known = {"vit-gpt2": "ViT", "trocr": "DeiT", "blip": "Blip"}
    crop = {"do_center_crop": False} if name == "trocr" else {}
    return getattr(transformers, f"{known[name]}ImageProcessor")(size=size, **crop)


def save(name: str, folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A whole checkpoint.

    Args:
        name: One of :data:`MODELS`.
        folder: Where it goes.
        seed: Of the weights; every one is random, so that none can be lost unseen.
        settings: Of the decoder's configuration.
    """
    torch.manual_seed(seed)
    model = MODELS[name](**settings).eval()
    noise = 0.2 if name == "donut" else 0.3  # whose windows make more of a difference
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_((noise if weight.dim() > 1 else 0.05) * torch.randn_like(weight))
    start = 2 if name == "florence2" else 1
    model.generation_config.update(decoder_start_token_id=start, max_length=20, **_IDS)
    model.save_pretrained(folder)
    images, words = _images(name), tokenizer()
    if name == "florence2":
        transformers.Florence2Processor(images, words).save_pretrained(folder)
    else:
        images.save_pretrained(folder)
        words.save_pretrained(folder)
    return folder
