"""Random checkpoints of any size, written shard by shard in the Hub's layout.

Sizes named after a model have its published configuration; weights are random bfloat16. Tokenizer
and processor files come from a small checkpoint of the same family.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from colport.base.errors import ConfigError
from colport.hub.checkpoints import read_config

if TYPE_CHECKING:
    from PIL import Image

SHARD_BYTES = 2 * 10**9
_MAX_PIXELS = 768 * 28 * 28  # of vidore/colqwen2-v1.0's processor: 768 tokens a page
_PATTERN = 2**23  # values of the random pattern that fills the tensors
_PAGE = (1754, 1240)  # rows and columns of pixels; A4 at 150 dpi

_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_KEYS = {
    "colpali": (_TEXT, (*_TEXT, "head_dim", "vocab_size")),
    "colqwen2": (
        ("embed_dim", "depth", "num_heads"),
        (*_TEXT, "num_key_value_heads", "vocab_size"),
    ),
}
_SIZES = {
    "colpali-3B": ((1152, 4304, 27, 16), (2048, 16384, 18, 8, 256, 257216)),
    "colpali-1B": ((1152, 4304, 12, 16), (2048, 8192, 8, 8, 256, 64000)),
    "colpali-100M": ((512, 2048, 8, 8), (768, 3072, 8, 4, 192, 16000)),
    "colpali-10M": ((192, 768, 4, 4), (256, 1024, 4, 4, 64, 8000)),
    "colqwen2-8B": ((1280, 32, 16), (3584, 18944, 28, 28, 4, 152064)),
    "colqwen2-2B": ((1280, 32, 16), (1536, 8960, 28, 12, 2, 151936)),
    "colqwen2-100M": ((512, 8, 8), (768, 3072, 8, 6, 2, 16000)),
}
"""Values of a family's :data:`_KEYS`: those of the vision tower, those of the text model."""


def sizes() -> list[str]:
    """Names that :func:`write` takes: ``family-size``."""
    return list(_SIZES)


def random_page(number: int = 0) -> Image.Image:
    """A page of noise, the same for the same number."""
    from PIL import Image

    values = np.random.default_rng(number).integers(0, 256, (*_PAGE, 3), np.uint8)
    return Image.fromarray(values)


def write(name: str, files_from: Path, output: Path) -> int:
    """Write a random checkpoint and return its number of parameters.

    Args:
        name: One of :func:`sizes`.
        files_from: Folder with the checkpoints ``colpali-demo`` and ``colqwen2-demo``.
        output: Folder to write.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in _SIZES:
        raise ConfigError(f"size: {name!r} is unknown; allowed are {', '.join(sizes())}.")
    demo = files_from / f"{name.partition('-')[0]}-demo"
    tokens = read_config(demo)["vlm_config"]
    model_class, config = _model(name, {key: tokens[key] for key in tokens if "_token" in key})
    output.mkdir(parents=True)
    for file in demo.glob("*.json"):
        if file.name != "config.json":
            shutil.copyfile(file, output / file.name)
    _resize_processor(output / "processor_config.json", config)
    config.save_pretrained(output)
    return _write_weights(model_class, config, output)


def _model(name: str, tokens: Mapping[str, int]) -> tuple[Any, Any]:
    import transformers

    family = name.partition("-")[0]
    vision, text = (
        dict(zip(keys, values, strict=True))
        for keys, values in zip(_KEYS[family], _SIZES[name], strict=True)
    )
    width = text["hidden_size"]
    if family == "colpali":
        tower = {"model_type": "siglip_vision_model", "vision_use_head": False}
        vision |= {**tower, "image_size": 448, "patch_size": 14, "projection_dim": width}
        text |= {"model_type": "gemma", "num_key_value_heads": 1}
        vlm = {"model_type": "paligemma", "hidden_size": width, "projection_dim": width}
        names = ("ColPaliForRetrieval", "ColPaliConfig")
    else:
        vision |= {"hidden_size": width, "mlp_ratio": 4}
        text |= {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
        vlm = {"model_type": "qwen2_vl"}
        names = ("ColQwen2ForRetrieval", "ColQwen2Config")
    vlm = {**vlm, **tokens, "vision_config": vision, "text_config": text}
    model, config = (getattr(transformers, name) for name in names)
    return model, config(vlm_config=vlm, embedding_dim=128)


def _resize_processor(file: Path, config: Any) -> None:
    """Full-size pages instead of the demo's small ones."""
    processor = json.loads(file.read_text())
    vision, images = config.vlm_config.vision_config, processor["image_processor"]
    if config.model_type == "colpali":
        images["size"] = {"height": vision.image_size, "width": vision.image_size}
        images["image_seq_length"] = (vision.image_size // vision.patch_size) ** 2
    else:
        images["size"]["longest_edge"] = _MAX_PIXELS
    file.write_text(json.dumps(processor))


def _write_weights(model_class: Any, config: Any, output: Path) -> int:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.numpy import save_file

    from colport.families.reference.skeletons import build_on_meta

    tensors = build_on_meta(model_class, config, "fp32")[0].bfloat16().state_dict()
    noise = np.random.default_rng(0).standard_normal(_PATTERN, np.float32) * 0.02
    pattern = noise.astype(ml_dtypes.bfloat16)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_BYTES)
    for file, names in split.filename_to_tensors.items():
        filled = {name: _filled(name, tensors[name].shape, pattern) for name in names}
        save_file(filled, output / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (output / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(tensor.numel() for tensor in tensors.values())


def _filled(name: str, shape: Sequence[int], pattern: np.ndarray) -> np.ndarray:
    """The pattern again and again, from a place of the tensor's own.

    Equal tensors would be merged by optimizers, and their products computed once.
    """
    start = zlib.crc32(name.encode()) % len(pattern)
    return np.resize(np.roll(pattern, -start), shape)
