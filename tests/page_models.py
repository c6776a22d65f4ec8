"""Tiny page models with random weights, written by the libraries' own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.conftest import RESOURCES

LINEAR = "down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj"
TARGETS = {
    "colpali": rf"(.*(language_model).*({LINEAR}).*$|.*(custom_text_proj).*$)",
    "colqwen2": rf"(.*(model).*({LINEAR}).*$|.*(custom_text_proj).*$)",
}
"""``target_modules`` of the published adapters ``vidore/colpali-v1.3`` and ``colqwen2-v1.0``."""


def demo(family: str) -> Path:
    """The demo checkpoint, whose tokenizer and processor the tiny models use."""
    return RESOURCES / f"checkpoints/{family}-demo"


def vlm_config(family: str) -> Any:
    """Configuration of a vision-language model of 64 dimensions."""
    from transformers import PaliGemmaConfig, Qwen2VLConfig

    known = json.loads((demo(family) / "config.json").read_text())["vlm_config"]
    text, vision = known["text_config"], known["vision_config"]
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {**small, "num_attention_heads": 4, "initializer_range": 0.1}
    vision |= {**small, "num_attention_heads": 2, "num_heads": 2, "initializer_range": 0.1}
    if family == "colpali":
        changes = {"head_dim": 16, "num_key_value_heads": 1}
        return PaliGemmaConfig(
            **{
                **known,
                "hidden_size": 64,
                "projection_dim": 64,
                "text_config": text | changes,
                "vision_config": vision | {"projection_dim": 64},
            }
        )
    text |= {"num_key_value_heads": 2, "rope_parameters": mrope(text, [2, 3, 3])}
    vision |= {"depth": 2, "embed_dim": 32, "mlp_ratio": 2}
    return Qwen2VLConfig(**{**known, "text_config": text, "vision_config": vision})


def mrope(text: dict[str, Any], sections: list[int]) -> dict[str, Any]:
    return {**text["rope_parameters"], "mrope_section": sections, "rope_theta": 100.0}


def model_class(family: str, library: str) -> Any:
    """The library's model class."""
    import colpali_engine.models as engine
    import transformers

    stem = {"colpali": "ColPali", "colqwen2": "ColQwen2"}[family]
    if library == "transformers":
        return getattr(transformers, f"{stem}ForRetrieval")
    return getattr(engine, stem)


def random_model(family: str, library: str, config: Any = None, seed: int = 0) -> Any:
    """A model whose every weight and bias is random, so that none can be lost unseen."""
    torch.manual_seed(seed)
    config = config or vlm_config(family)
    chosen = model_class(family, library)
    if library == "transformers":
        config = chosen.config_class(vlm_config=config, embedding_dim=128)
    model = chosen(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def save_processor(family: str, library: str, folder: Path, **image: Any) -> None:
    """The library's processor over the demo's tokenizer; ``image`` changes its image settings."""
    import colpali_engine.models as engine
    import transformers

    stem = {"colpali": "ColPali", "colqwen2": "ColQwen2"}[family]
    known = getattr(transformers, f"{stem}Processor").from_pretrained(demo(family))
    for key, value in image.items():
        setattr(known.image_processor, key, value)
    if library == "colpali-engine":
        parts = {"image_processor": known.image_processor, "tokenizer": known.tokenizer}
        if family == "colqwen2":
            parts["video_processor"] = transformers.Qwen2VLVideoProcessor()
        known = getattr(engine, f"{stem}Processor")(**parts)
    known.save_pretrained(folder)


def save(
    family: str, library: str, folder: Path, *, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """A whole checkpoint; ``options`` go to ``save_pretrained``."""
    random_model(family, library).to(dtype).save_pretrained(folder, **options)
    save_processor(family, library, folder)
    return folder


def save_adapter(family: str, base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter on a colpali-engine checkpoint, as ``peft`` writes it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    model = model_class(family, "colpali-engine").from_pretrained(base, dtype=torch.float32)
    defaults = {
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "init_lora_weights": "gaussian",
        "task_type": "FEATURE_EXTRACTION",
        "target_modules": TARGETS[family],
    }
    adapted = get_peft_model(model, LoraConfig(**{**defaults, **settings}))
    vary(adapted)
    adapted.save_pretrained(folder)
    save_processor(family, "colpali-engine", folder)
    return folder


def vary(adapted: Any) -> None:
    """Change every weight that training would change, so that no part of an adapter is zero."""
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)


def page(width: int, height: int, seed: int = 0) -> Image.Image:
    """A page of coloured blocks: smooth enough to keep its content when it is resized."""
    rng = np.random.default_rng((seed, width, height))
    coarse = rng.integers(0, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest absolute difference of two lists of embeddings of equal shapes."""
    assert [rows.shape for rows in found] == [rows.shape for rows in expected]
    return max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
