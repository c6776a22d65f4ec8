"""Random checkpoints of any size, written shard by shard in the Hub's layout.

Sizes named after a model have its published configuration; weights are random bfloat16. Tokenizer
and processor files come from a small checkpoint of the same family.
"""

from __future__ import annotations

import json
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from colport.base.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

SHARD_BYTES = 2 * 10**9
_PATTERN = 2**23  # values of the random pattern that fills the tensors
_PAGE = (1754, 1240)  # rows and columns of pixels; A4 at 150 dpi
_KNOWN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_TILE_TOKENS = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
_MOST_TILES = 6  # rows and columns with tokens of their own
_QWEN_TOKENS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "video_token_id": "<|video_pad|>",
}


def sizes() -> list[str]:
    """Names that :func:`write` takes: ``family-size``."""
    return list(_KNOWN["size"])


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
    if name not in sizes():
        raise ConfigError(f"size: {name!r} is unknown; allowed are {', '.join(sizes())}.")
    form = _KNOWN["form"][name.partition("-")[0]]
    processor = _processor(form, files_from / f"{form['demo']}-demo")
    model_class, config = model(name, _tokens(processor))
    output.mkdir(parents=True)
    processor.save_pretrained(output)
    config.architectures = [model_class.__name__]
    config.save_pretrained(output)
    return _write_weights(model_class, config, output)


def model(name: str, tokens: Mapping[str, int]) -> tuple[Any, Any]:
    """Class and configuration of a size, with these ids of tokens."""
    form, size = _KNOWN["form"][name.partition("-")[0]], _KNOWN["size"][name]
    model_class = getattr(import_module(form["module"]), form["class"])
    vision, text = ({**form.get(part, {}), **size[part]} for part in ("vision", "text"))
    vlm, width = dict(tokens), text["hidden_size"]
    if form["demo"] == "colpali":
        vision["projection_dim"] = width
        vlm |= {"model_type": "paligemma", "hidden_size": width, "projection_dim": width}
    elif form.get("tiles"):
        vlm |= {"model_type": "modernvbert", "pixel_shuffle_factor": 4}
    elif form.get("vlm_config"):
        vision["hidden_size"] = width
        vlm["model_type"] = "qwen2_vl"
    else:
        vision["out_hidden_size"] = width
    vlm |= {"vision_config": vision, "text_config": text}
    if form.get("vlm_config"):
        vlm = {"vlm_config": vlm, "embedding_dim": 128}
    return model_class, model_class.config_class(**vlm)


def _processor(form: Mapping[str, Any], demo: Path) -> Any:
    """A processor for full-size pages, over the demo's tokenizer."""
    import transformers

    name = {"colpali": "ColPaliProcessor", "colqwen2": "ColQwen2Processor"}[form["demo"]]
    known = getattr(transformers, name).from_pretrained(demo, trust_remote_code=False)
    parts = {"image_processor": known.image_processor, "tokenizer": known.tokenizer}
    if form.get("tiles"):
        grid = [divmod(place, _MOST_TILES) for place in range(_MOST_TILES**2)]
        places = [f"<row_{row + 1}_col_{column + 1}>" for row, column in grid]
        known.tokenizer.add_tokens([*_TILE_TOKENS, *places], special_tokens=True)
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        parts["image_processor"] = transformers.Idefics3ImageProcessor(**half)
    elif "processor" in form:
        parts["video_processor"] = transformers.Qwen2VLVideoProcessor()
    for key, value in form["image"].items():
        setattr(parts["image_processor"], key, value)
    if "processor" not in form:
        return known
    return getattr(import_module(form["module"]), form["processor"])(**parts)


def _tokens(processor: Any) -> dict[str, int]:
    """Ids that a configuration names."""
    known = processor.tokenizer.get_vocab()
    ids = {key: known[token] for key, token in _QWEN_TOKENS.items() if token in known}
    return {"image_token_id": processor.image_token_id, **ids}


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
