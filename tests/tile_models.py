"""Tiny random page models whose pages are cut into tiles, written by the libraries' own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors

from tests.page_models import LINEAR, demo, vary

STEMS = {
    "colmodernvbert": "ColModernVBert",
    "bimodernvbert": "BiModernVBert",
    "colidefics3": "ColIdefics3",
    "biidefics3": "BiIdefics3",
}
TILE, LONGEST = 32, 128
MARKERS = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
OTHERS = ["<pad>", "[CLS]", "[SEP]", "<|im_start|>", "<|begin_of_text|>"]
ROWS_AND_COLUMNS = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3, 4)]
"""Those of a fourth row are spelled in pieces, as of a seventh in the published tokenizers."""


def tokenizer(family: str, **settings: Any) -> Any:
    """The demo's words with the tokens of tiles; ModernBERT's stands between two tokens more."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(demo("colqwen2") / "tokenizer.json"))
    backend.add_special_tokens([*MARKERS, *OTHERS])
    backend.add_tokens(ROWS_AND_COLUMNS)
    if "modernvbert" in family:
        ends = [(token, backend.token_to_id(token)) for token in OTHERS[1:3]]
        backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", **{"padding_side": "left", **settings}
    )


def vlm_config(family: str, vision: dict[str, Any] | None = None) -> Any:
    """Configuration of a model whose layers differ where those of the published do."""
    from transformers import Idefics3Config, ModernVBertConfig

    tokens = tokenizer(family)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tower = {**small, "num_attention_heads": 2, "image_size": TILE, "patch_size": 8}
    text = {**small, "hidden_size": 64, "vocab_size": -(-len(tokens) // 64) * 64}
    text |= {"num_attention_heads": 4, "pad_token_id": tokens.pad_token_id}
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    image = {"image_token_id": tokens.convert_tokens_to_ids("<image>")}
    if "idefics3" in family:
        text |= {"model_type": "llama", "num_key_value_heads": 2}
        return Idefics3Config(
            vision_config=tower | (vision or {}), text_config=text, scale_factor=2, **image
        )
    text |= {"model_type": "modernbert", "num_hidden_layers": 4, "local_attention": 8}
    text |= {"cls_token_id": 1, "sep_token_id": 2}
    tower |= {"model_type": "siglip_vision_model"}
    return ModernVBertConfig(
        vision_config=tower | (vision or {}), text_config=text, pixel_shuffle_factor=2, **image
    )


def classes(family: str, library: str) -> tuple[Any, Any]:
    """The library's classes of model and processor."""
    import colpali_engine.models as engine
    import transformers

    module = transformers if library == "transformers" else engine
    head = "ForRetrieval" if library == "transformers" else ""
    stem = STEMS[family]
    return getattr(module, f"{stem}{head}"), getattr(module, f"{stem}Processor")


def random_model(family: str, library: str, config: Any = None, seed: int = 0) -> Any:
    """A model whose every weight and bias is random, and whose attention matters."""
    torch.manual_seed(seed)
    config, (chosen, _) = config or vlm_config(family), classes(family, library)
    if library == "transformers":
        config = chosen.config_class(vlm_config=config, embedding_dim=48)
    model = chosen(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += (0.2 if weight.ndim > 1 else 0.1) * torch.randn_like(weight)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight *= 2
    return model


def save_processor(family: str, library: str, folder: Path, **image: Any) -> Any:
    """The library's processor; ``image`` changes its image processor, ``tokens`` its tokenizer."""
    from transformers import Idefics3ImageProcessor

    tokens = tokenizer(family, **image.pop("tokens", {}))
    sizes = {"size": {"longest_edge": LONGEST}, "max_image_size": {"longest_edge": TILE}}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Idefics3ImageProcessor(**{**sizes, **half, **image})
    processor = classes(family, library)[1](images, tokens, image_seq_len=4)
    processor.save_pretrained(folder)
    return processor


def save(family: str, library: str, folder: Path, config: Any = None, **image: Any) -> Path:
    """A whole checkpoint."""
    random_model(family, library, config).save_pretrained(folder)
    save_processor(family, library, folder, **image)
    return folder


def save_adapter(family: str, base: Path, folder: Path) -> Path:
    """A LoRA adapter on a colpali-engine checkpoint, as ``peft`` writes it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    chosen, _ = classes(family, "colpali-engine")
    model = chosen.from_pretrained(base, dtype=torch.float32)
    targets = rf"(.*(text_model).*({LINEAR}|Wqkv|Wi|Wo)$|.*(linear|custom_text_proj)$)"
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    vary(adapted)
    adapted.save_pretrained(folder)
    save_processor(family, "colpali-engine", folder)
    return folder
