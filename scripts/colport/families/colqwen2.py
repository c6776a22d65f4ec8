"""ColQwen2: Qwen2-VL with a projection (``ColQwen2ForRetrieval`` of transformers).

Pages keep their aspect ratio. The vision tower sees all patches of a batch in one row; the page
boundaries and patch positions come in as graph inputs, so that one graph serves every grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.checkpoints import read_config
from colport.errors import DatasetError, UnsupportedError
from colport.families import functional
from colport.families.base import (
    Batch,
    Document,
    Embedder,
    Family,
    GraphDefinition,
    GraphInput,
    Processing,
    Runtime,
    Skeleton,
)
from colport.families.images import normalise, resize_bicubic, rgb_array
from colport.families.pages import PageRuntime
from colport.families.tokens import save_backend

if TYPE_CHECKING:
    import torch

_TOKENS = {0: "batch", 1: "tokens"}
_MAX_ASPECT_RATIO = 200  # as Qwen2-VL's own processor
# The name must contain "flash": transformers then passes page boundaries instead of splitting.
_PACKED_ATTENTION = "colport_packed_flash"


class ColQwen2(Family):
    """``ColQwen2ForRetrieval`` checkpoints of transformers."""

    name = "colqwen2"
    document_type = "pages"

    def accepts(self, folder: Path) -> bool:
        """Whether ``config.json`` says ``model_type: colqwen2`` over a Qwen2-VL."""
        config = read_config(folder)
        backbone = (config.get("vlm_config") or {}).get("model_type", "qwen2_vl")
        return config.get("model_type") == "colqwen2" and backbone == "qwen2_vl"

    def skeleton(self, folder: Path, precision: str) -> Skeleton:
        """See :meth:`Family.skeleton`."""
        from transformers import ColQwen2Config, ColQwen2ForRetrieval

        from colport.families.skeletons import build_on_meta, map_tensors
        from colport.weights import TensorIndex

        config = ColQwen2Config.from_pretrained(folder)
        if "sliding_attention" in config.vlm_config.text_config.layer_types:
            raise UnsupportedError(f"{folder}: sliding-window text layers are not exported yet.")
        model, constants = build_on_meta(ColQwen2ForRetrieval, config, precision)
        _register_packed_attention()
        model.vlm.visual.config._attn_implementation = _PACKED_ATTENTION
        sources = map_tensors(
            model, TensorIndex(folder), ignored=(r"(^|\.)lm_head\.weight$",), source=str(folder)
        )
        vision = config.vlm_config.vision_config
        merge = vision.spatial_merge_size
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        text_inputs = (
            GraphInput("input_ids", "int64", (2, 20), _TOKENS),
            GraphInput("attention_mask", "int64", (2, 20), _TOKENS),
        )
        image_inputs = (
            GraphInput("input_ids", "int64", (2, 33), _TOKENS),
            GraphInput("attention_mask", "int64", (2, 33), _TOKENS),
            GraphInput("pixel_values", "float32", (24 * merge**2, patch), {0: "patches"}),
            GraphInput("patch_positions", "int64", (24 * merge**2, 2), {0: "patches"}),
            GraphInput("page_boundaries", "int64", (5,), {0: "boundaries"}),
        )
        graphs = (
            GraphDefinition("text", text_inputs, _embed_text),
            GraphDefinition("image", image_inputs, _embed_image),
        )
        return Skeleton(model, constants, sources, graphs, config.embedding_dim)

    def processing(self, folder: Path) -> Processing:
        """See :meth:`Family.processing`."""
        from transformers import ColQwen2Processor

        processor = ColQwen2Processor.from_pretrained(folder)
        tokenizer, images = processor.tokenizer, processor.image_processor
        suffix = processor.query_augmentation_token * 10
        settings = {
            "query_template": f"{processor.query_prefix}{{text}}{suffix}\n",
            "document_prompt": processor.visual_prompt_prefix,
            "image_token": processor.image_token,
            "pad_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.padding_side,
            "image": {
                "patch_size": images.patch_size,
                "merge_size": images.merge_size,
                "temporal_patch_size": images.temporal_patch_size,
                "min_pixels": images.size["shortest_edge"],
                "max_pixels": images.size["longest_edge"],
                "scale": images.rescale_factor,
                "mean": list(images.image_mean),
                "std": list(images.image_std),
            },
        }
        return Processing(settings, save_backend(tokenizer))

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> Runtime:
        """See :meth:`Family.runtime`."""
        return _Runtime(settings, folder)

    def reference(self, folder: Path, device: str) -> Embedder:
        """``ColQwen2ForRetrieval`` with its own processor, in fp32."""
        from transformers import ColQwen2ForRetrieval, ColQwen2Processor

        from colport.families.reference import ProcessorReference

        return ProcessorReference.load(ColQwen2ForRetrieval, ColQwen2Processor, folder, device)


class _Runtime(PageRuntime):
    def document_batch(self, documents: Sequence[Document]) -> Batch:
        """See :meth:`Runtime.document_batch`."""
        image = self._settings["image"]
        patches, grids = zip(*(_patches(page, image) for page in documents), strict=True)
        batch = self._tokens.pad(self._tokens.encode([self._prompt(grid) for grid in grids]))
        lengths = [height * width for height, width in grids]
        feeds = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "pixel_values": np.concatenate(patches),
            "patch_positions": np.concatenate(
                [_positions(grid, image["merge_size"]) for grid in grids]
            ),
            "page_boundaries": np.cumsum([0, *lengths], dtype=np.int64),
        }
        return Batch("image", feeds, batch.mask.astype(bool))

    def _prompt(self, grid: tuple[int, int]) -> str:
        token = self._settings["image_token"]
        count = grid[0] * grid[1] // self._settings["image"]["merge_size"] ** 2
        return self._settings["document_prompt"].replace(token, token * count, 1)


def fitted_size(height: int, width: int, image: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that a page is resized to, by Qwen2-VL's rule.

    Both are multiples of patch size times merge size, their product lies within ``min_pixels``
    and ``max_pixels``, and the aspect ratio is kept as far as that allows.

    Raises:
        DatasetError: The page is more than 200 times longer than wide, or the reverse.
    """
    if max(height, width) > _MAX_ASPECT_RATIO * min(height, width):
        raise DatasetError(
            f"page of {width}x{height} pixels: sides may differ at most {_MAX_ASPECT_RATIO} times."
        )
    unit = image["patch_size"] * image["merge_size"]
    fitted = [round(side / unit) * unit for side in (height, width)]
    area = fitted[0] * fitted[1]
    if area > image["max_pixels"]:
        shrink = math.sqrt(height * width / image["max_pixels"])
        fitted = [max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width)]
    elif area < image["min_pixels"]:
        grow = math.sqrt(image["min_pixels"] / (height * width))
        fitted = [math.ceil(side * grow / unit) * unit for side in (height, width)]
    return fitted[0], fitted[1]


def _patches(page: Any, image: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """Patches ``float32 [patches, values]`` in merge-block order, and the grid (rows, columns)."""
    pixels = rgb_array(page)
    height, width = fitted_size(*pixels.shape[:2], image)
    pixels = resize_bicubic(pixels, height, width)
    values = normalise(pixels, image["scale"], image["mean"], image["std"])
    size, merge, frames = image["patch_size"], image["merge_size"], image["temporal_patch_size"]
    rows, columns = height // size, width // size
    blocks = values.reshape(-1, rows // merge, merge, size, columns // merge, merge, size)
    ordered = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    repeated = np.repeat(ordered, frames, axis=5)  # a page is a clip of equal frames
    return repeated.reshape(rows * columns, -1), (rows, columns)


def _positions(grid: tuple[int, int], merge: int) -> np.ndarray:
    """Row and column of each patch, ``int64 [patches, 2]``, in merge-block order."""
    rows, columns = np.indices(grid, dtype=np.int64)
    shape = (grid[0] // merge, merge, grid[1] // merge, merge)
    order = [axis.reshape(shape).transpose(0, 2, 1, 3).ravel() for axis in (rows, columns)]
    return np.stack(order, axis=-1)


def _embed_text(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return _embed(model, model.vlm.get_input_embeddings()(input_ids), attention_mask)


def _embed_image(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    pixel_values: torch.Tensor,
    patch_positions: torch.Tensor,
    page_boundaries: torch.Tensor,
) -> torch.Tensor:
    features = model.vlm.visual(
        pixel_values.to(model.dtype),
        grid_thw=None,
        position_ids=patch_positions,
        cu_seqlens=page_boundaries,
        max_seqlen=1,  # unused by the packed attention; given so that it is not computed
    ).pooler_output
    is_image = input_ids == model.config.vlm_config.image_token_id
    words = model.vlm.get_input_embeddings()(input_ids)
    return _embed(model, functional.place_images(words, features, is_image), attention_mask)


def _embed(model: Any, words: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    # ColQwen2ForRetrieval passes no grid to the language model: positions simply count up.
    bias = functional.attention_bias(attention_mask, words.dtype, causal=True)
    output = model.vlm.language_model(
        inputs_embeds=words, attention_mask={"full_attention": bias}, use_cache=False
    )
    embeddings = model.embedding_proj_layer(output.last_hidden_state)
    return functional.normalised(embeddings, attention_mask)


def _packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over all pages in one row, ``[1, heads, patches, size]``, within each page."""
    import torch

    position = torch.arange(query.shape[2], device=query.device)
    page = (position[:, None] >= cu_seq_lens_q[None, 1:]).sum(-1)
    same_page = page[:, None] == page[None, :]
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    bias = torch.where(same_page, zero, torch.finfo(query.dtype).min)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling + bias
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2), None


def _register_packed_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_PACKED_ATTENTION, _packed_attention)


FAMILY = ColQwen2()
