"""Random checkpoints of any size, written tensor by tensor in the Hub's layout.

Sizes named after a model have its published configuration; weights are random bfloat16. Tokenizer
and processor files come from a small checkpoint of the same family.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from colport.checkpoints import read_config
from colport.errors import ConfigError

SHARD_BYTES = 2 * 10**9
_MAX_PIXELS = 768 * 28 * 28  # of vidore/colqwen2-v1.0's processor: 768 tokens a page
_PATTERN = 2**23  # values of the random pattern that fills the tensors

_COLPALI = {
    "3B": ((1152, 4304, 27, 16, 448), (2048, 16384, 18, 8, 256, 257216)),
    "1B": ((1152, 4304, 12, 16, 448), (2048, 8192, 8, 8, 256, 64000)),
    "100M": ((512, 2048, 8, 8, 448), (768, 3072, 8, 4, 192, 16000)),
    "10M": ((192, 768, 4, 4, 448), (256, 1024, 4, 4, 64, 8000)),
}
"""(vision: width, feed-forward, layers, heads, page), (text: the same, head size, vocabulary)."""

_COLQWEN2 = {
    "8B": ((1280, 32, 16), (3584, 18944, 28, 28, 4, 152064, [16, 24, 24])),
    "2B": ((1280, 32, 16), (1536, 8960, 28, 12, 2, 151936, [16, 24, 24])),
    "100M": ((512, 8, 8), (768, 3072, 8, 6, 2, 16000, [16, 24, 24])),
}
"""(vision: width, layers, heads), (text: …, key-value heads, vocabulary, rotary sections)."""


def sizes() -> list[str]:
    """Names that :func:`write` takes: ``family-size``."""
    return [f"colpali-{n}" for n in _COLPALI] + [f"colqwen2-{n}" for n in _COLQWEN2]


def write(name: str, files_from: Path, output: Path) -> int:
    """Write a random checkpoint and return its number of parameters.

    Args:
        name: One of :func:`sizes`.
        files_from: Folder with the checkpoints ``colpali-demo`` and ``colqwen2-demo``.
        output: Folder to write.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in sizes():
        raise ConfigError(f"size: {name!r} is unknown; allowed are {', '.join(sizes())}.")
    family, _, size = name.partition("-")
    demo = read_config(files_from / f"{family}-demo")["vlm_config"]
    tokens = {key: value for key, value in demo.items() if "_token" in key}
    model_class, config = (_colpali if family == "colpali" else _colqwen2)(size, tokens)
    output.mkdir(parents=True)
    for file in (files_from / f"{family}-demo").iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            shutil.copyfile(file, output / file.name)
    _resize_processor(output / "processor_config.json", config)
    config.save_pretrained(output)
    return _write_weights(model_class, config, output)


def _colpali(size: str, tokens: Mapping[str, int]) -> tuple[Any, Any]:
    from transformers import ColPaliConfig, ColPaliForRetrieval

    (width, inner, layers, heads, page), (*text, vocabulary) = _COLPALI[size]
    text_width, text_inner, text_layers, text_heads, head = text
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": page,
        "patch_size": 14,
        "vision_use_head": False,
    }
    language = {
        "model_type": "gemma",
        "hidden_size": text_width,
        "intermediate_size": text_inner,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_heads,
        "num_key_value_heads": 1,
        "head_dim": head,
        "vocab_size": vocabulary,
    }
    vlm = {
        "model_type": "paligemma",
        **tokens,
        "hidden_size": text_width,
        "projection_dim": text_width,
        "vision_config": {**vision, "projection_dim": text_width},
        "text_config": language,
    }
    return ColPaliForRetrieval, ColPaliConfig(vlm_config=vlm, embedding_dim=128)


def _colqwen2(size: str, tokens: Mapping[str, int]) -> tuple[Any, Any]:
    from transformers import ColQwen2Config, ColQwen2ForRetrieval

    (width, layers, heads), (*text, vocabulary, sections) = _COLQWEN2[size]
    text_width, text_inner, text_layers, text_heads, key_heads = text
    vlm = {
        "model_type": "qwen2_vl",
        **tokens,
        "vision_config": {
            "depth": layers,
            "embed_dim": width,
            "num_heads": heads,
            "hidden_size": text_width,
            "mlp_ratio": 4,
        },
        "text_config": {
            "hidden_size": text_width,
            "intermediate_size": text_inner,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_heads,
            "num_key_value_heads": key_heads,
            "vocab_size": vocabulary,
            "rope_scaling": {"type": "mrope", "mrope_section": sections},
        },
    }
    return ColQwen2ForRetrieval, ColQwen2Config(vlm_config=vlm, embedding_dim=128)


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
    from colport.families.skeletons import build_on_meta

    model, _ = build_on_meta(model_class, config, "fp32")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    noise = np.random.default_rng(0).standard_normal(_PATTERN, np.float32) * 0.02
    pattern = noise.astype(ml_dtypes.bfloat16)
    shards = list(_shards(shapes))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(output / file, {name: shapes[name] for name in names}, pattern)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (output / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names: list[str] = []
    used = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        if names and used + size > SHARD_BYTES:
            yield names
            names, used = [], 0
        names.append(name)
        used += size
    yield names


def _write_shard(file: Path, shapes: Mapping[str, tuple[int, ...]], pattern: np.ndarray) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            # Equal tensors would be merged by optimizers, and their products computed once.
            start = zlib.crc32(name.encode()) % len(pattern)
            while left:
                part = pattern[start : start + left]
                stream.write(part.view(np.uint8))
                left, start = left - len(part), 0
