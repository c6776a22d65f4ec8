"""ColPali: PaliGemma with a projection (Faysse et al. 2024, arXiv:2407.01449).

Pages have one fixed size, hence a fixed number of tokens. The whole prompt attends to itself in
both directions, and positions start at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.checkpoints import read_config
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


class ColPali(Family):
    """``ColPaliForRetrieval`` checkpoints of transformers."""

    name = "colpali"
    document_type = "pages"

    def accepts(self, folder: Path) -> bool:
        """Whether ``config.json`` says ``model_type: colpali``."""
        return read_config(folder).get("model_type") == "colpali"

    def skeleton(self, folder: Path, precision: str) -> Skeleton:
        """See :meth:`Family.skeleton`."""
        from transformers import ColPaliConfig, ColPaliForRetrieval

        from colport.families.skeletons import build_on_meta, map_tensors
        from colport.weights import TensorIndex

        config = ColPaliConfig.from_pretrained(folder)
        model, constants = build_on_meta(ColPaliForRetrieval, config, precision)
        sources = map_tensors(
            model, TensorIndex(folder), ignored=(r"(^|\.)lm_head\.weight$",), source=str(folder)
        )
        vision = config.vlm_config.vision_config
        prompt = (vision.image_size // vision.patch_size) ** 2 + 6
        text_inputs = (
            GraphInput("input_ids", "int64", (2, 20), _TOKENS),
            GraphInput("attention_mask", "int64", (2, 20), _TOKENS),
        )
        pixels = (2, vision.num_channels, vision.image_size, vision.image_size)
        image_inputs = (
            GraphInput("input_ids", "int64", (2, prompt), _TOKENS),
            GraphInput("attention_mask", "int64", (2, prompt), _TOKENS),
            GraphInput("pixel_values", "float32", pixels, {0: "batch"}),
        )
        graphs = (
            GraphDefinition("text", text_inputs, _embed_text),
            GraphDefinition("image", image_inputs, _embed_image),
        )
        return Skeleton(model, constants, sources, graphs, config.embedding_dim)

    def processing(self, folder: Path) -> Processing:
        """See :meth:`Family.processing`."""
        from transformers import ColPaliProcessor

        processor = ColPaliProcessor.from_pretrained(folder)
        tokenizer, images = processor.tokenizer, processor.image_processor
        suffix = processor.query_augmentation_token * 10
        image_tokens = processor.image_token * processor.image_seq_length
        settings = {
            "query_template": f"{tokenizer.bos_token}{processor.query_prefix}{{text}}{suffix}\n",
            "document_prompt": (
                f"{image_tokens}{tokenizer.bos_token}{processor.visual_prompt_prefix}\n"
            ),
            "pad_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.padding_side,
            "image": {
                "height": images.size["height"],
                "width": images.size["width"],
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
        """``ColPaliForRetrieval`` with its own processor, in fp32."""
        from transformers import ColPaliForRetrieval, ColPaliProcessor

        from colport.families.reference import ProcessorReference

        return ProcessorReference.load(ColPaliForRetrieval, ColPaliProcessor, folder, device)


class _Runtime(PageRuntime):
    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__(settings, folder)
        self._document_ids = self._tokens.encode([settings["document_prompt"]])[0]

    def document_batch(self, documents: Sequence[Document]) -> Batch:
        """See :meth:`Runtime.document_batch`."""
        ids = np.tile(np.asarray(self._document_ids, np.int64), (len(documents), 1))
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "pixel_values": np.stack([self._pixels(page) for page in documents]),
        }
        return Batch("image", feeds, np.ones(ids.shape, bool))

    def _pixels(self, page: Any) -> np.ndarray:
        image = self._settings["image"]
        pixels = resize_bicubic(rgb_array(page), image["height"], image["width"])
        return normalise(pixels, image["scale"], image["mean"], image["std"])


def _embed_text(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return _embed(model, _word_embeddings(model, input_ids), attention_mask)


def _embed_image(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    pixel_values: torch.Tensor,
) -> torch.Tensor:
    vlm = model.vlm
    features = vlm.get_image_features(pixel_values.to(model.dtype)).pooler_output.flatten(0, 1)
    is_image = input_ids == vlm.config.image_token_id
    words = _word_embeddings(model, input_ids)
    return _embed(model, functional.place_images(words, features, is_image), attention_mask)


def _word_embeddings(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Word embeddings; an image token beyond the vocabulary reads row 0, as in PaliGemma."""
    import torch

    vlm = model.vlm
    if vlm.config.image_token_id >= vlm.vocab_size:
        input_ids = torch.where(input_ids == vlm.config.image_token_id, 0, input_ids)
    return vlm.get_input_embeddings()(input_ids)


def _embed(model: Any, words: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    import torch

    positions = torch.arange(words.shape[1], device=words.device).unsqueeze(0) + 1
    output = model.vlm.language_model(
        inputs_embeds=words,
        attention_mask=functional.attention_bias(attention_mask, words.dtype, causal=False),
        position_ids=positions,
        use_cache=False,
    )
    embeddings = model.embedding_proj_layer(output.last_hidden_state)
    return functional.normalised(embeddings, attention_mask)


FAMILY = ColPali()
