"""NeoMME: one encoder of words and patches (H Company 2026, arXiv:2609.01657).

There is no vision tower: patches of a page take the place of words, a marker ends each row of
them, and every token has a row and a column. A page keeps its size up to limits, and black is added
to whole patches. Its own score, MeanMaxSim, is MaxSim by a query's tokens: it ranks alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colport.base.errors import UnsupportedError
from colport.base.foreign import shape_beside
from colport.families.base import Batch, Document, GraphInput, PatchGrid, Tensor
from colport.families.pages.base import Fact, PageFamily, PageRuntime, Tensors, chat_query
from colport.families.pages.images import normalise, planes, resize
from colport.families.pages.layouts import CheckpointLayout, TransformersLayout
from colport.hub.checkpoints import read_config

_SENTENCES = "sentence_bert_config.json"  # of sentence-transformers

Grid = tuple[int, int]
"""Rows and columns of a page's patches."""


class _Layout(TransformersLayout):
    def load_processor(self, folder: Path) -> Any:
        """See :meth:`CheckpointLayout.load_processor`.

        Raises:
            UnsupportedError: sentence-transformers asks without the chat template, whose markers
                make a query one.
        """
        if (file := folder / _SENTENCES).is_file():
            forms = read_config(folder, _SENTENCES).get("modality_config")
            if forms is not None and "message" not in forms:
                raise UnsupportedError(
                    f"{file}: modality_config has no message, so that sentence-transformers asks "
                    "without the chat template; exported are queries with it."
                )
        processor = super().load_processor(folder)  # with the methods of the library's other ones
        processor.process_queries = partial(_processed, processor, "query", "text")
        processor.process_images = partial(_processed, processor, "document", "image")
        return processor


def _processed(processor: Any, task: str, kind: str, inputs: Sequence[Any]) -> Any:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": [{"type": kind, kind: item}]} for item in inputs]
    try:
        return processor.apply_chat_template(
            [[message] for message in messages],
            task=task,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": "longest", "return_tensors": "pt"},
        )
    except TemplateError as error:  # the template's own refusal
        raise ValueError(str(error)) from error


class _Runtime(PageRuntime):
    own_settings = shape_beside(__file__)

    def page(self, page: Document) -> tuple[np.ndarray, Grid]:
        """See :meth:`PageRuntime.page`; ``float32 [patches, values]`` and their grid."""
        image, pixels, side = self._image, planes(page), self._image["patch_size"]
        height, width = fitted_size(*pixels[0].shape, image)
        rows, columns = -(-height // side), -(-width // side)
        filled = np.zeros((len(pixels), rows * side, columns * side), np.uint8)
        filled[:, :height, :width] = resize(pixels, height, width, image["resample"])
        values = normalise(filled, image["scale"], image["mean"], image["std"])
        blocks = values.reshape(-1, rows, side, columns, side).transpose(1, 3, 2, 4, 0)
        return blocks.reshape(rows * columns, -1), (rows, columns)

    def page_batch(self, pages: Sequence[tuple[np.ndarray, Grid]]) -> Batch:
        """See :meth:`PageRuntime.page_batch`."""
        patches, grids = zip(*pages, strict=True)
        image, end = self._settings["image_token"], self._settings["row_token"]
        written = [image + (image * columns + end) * rows for rows, columns in grids]
        tokens = self._page_tokens(written)
        positions = np.zeros((2, *tokens.ids.shape), np.int64)
        for index, (rows, columns) in enumerate(grids):
            places = 2 + np.indices((rows, columns + 1)).reshape(2, -1)
            positions[:, index, tokens.mask[index] > 0] = np.hstack([[[0, 1]] * 2, places])
        feeds = {"pixel_values": np.concatenate(patches), "position_ids": positions}
        return self._batch("image", tokens, **feeds)

    def page_length(self, page: Document) -> int:
        """See :meth:`PageRuntime.page_length`."""
        return int(self.grid(page).places[-1, -1]) + 2

    def grid(self, page: Document) -> PatchGrid:
        """See :meth:`PageRuntime.grid`."""
        height, width = fitted_size(page.height, page.width, self._image)
        side = self._image["patch_size"]
        rows, columns = -(-height // side), -(-width // side)
        first = 2 + np.arange(rows) * (columns + 1)
        part = width / (columns * side), height / (rows * side)
        return PatchGrid(first[:, None] + np.arange(columns), part)


class NeoMME(PageFamily):
    """``NeoMMEForRetrieval`` of transformers, of which pages are read and not texts."""

    name = "neomme"
    reserved = ("<img>",)
    images_class = "NeoMMEImageProcessor"
    runtime_class = _Runtime
    layouts = (_Layout("NeoMME", "neomme", "model", "multi_vector_head.proj", query_end=""),)

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`; two layers have values of the words themselves."""
        for number in backbone.value_embedding_layers:
            backbone.layers[number].has_values = True

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`."""
        return (
            GraphInput("pixel_values", "float32", (24, config.patch_dim), {0: "patches"}),
            GraphInput("position_ids", "int64", (2, 2, 33), {1: "batch", 2: "tokens"}),
        )

    def is_image(self, backbone: Any, input_ids: Tensor) -> Tensor:
        """See :meth:`PageFamily.is_image`; the first one of a page is a marker."""
        import torch

        behind = torch.nn.functional.pad(input_ids[:, :-1], (1, 0))
        return super().is_image(backbone, input_ids) & (behind != backbone.config.document_token_id)

    def embed_words(self, backbone: Any, input_ids: Tensor) -> Tensor:
        """See :meth:`PageFamily.embed_words`."""
        return backbone.embed_tokens(input_ids)

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """See :meth:`PageFamily.embed_pages`."""
        return (backbone.patch_embeddings(inputs["pixel_values"].to(backbone.dtype)),)

    def hidden_states(self, backbone: Any, words: Tensor, inputs: Tensors) -> Tensor:
        """See :meth:`PageFamily.hidden_states`; layers of one window share one mask."""
        from transformers import masking_utils

        def mask(layer: Any) -> Tensor:
            kind = "bidirectional_sliding_window" if layer.sliding_window else "bidirectional"
            make = getattr(masking_utils, f"create_{kind}_mask")
            return make(layer, words, inputs["attention_mask"])

        layers = list(backbone.config.per_layer_config)
        masks = {layer.sliding_window: mask(layer) for layer in layers}
        # The model takes no embeddings in place of token ids.
        given = backbone.embed_tokens.register_forward_hook(lambda *_: words)
        try:
            return backbone(
                inputs["input_ids"],
                attention_mask={i: masks[layer.sliding_window] for i, layer in enumerate(layers)},
                position_ids=inputs.get("position_ids"),  # without them, both axes count up
            ).last_hidden_state
        finally:
            given.remove()

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""
        processor.process_images([Image.new("RGB", (1, 1))])  # refuses a template without pages
        message = {"role": "user", "content": "{text}"}
        query = processor.apply_chat_template([message], task="query", tokenize=False)
        return {
            **chat_query(processor, query),
            "document_prompt": processor.tokenizer.document_token + processor.image_token,
            "image_token": processor.image_token,
            "row_token": processor.tokenizer.row_token,
        }

    def agreed(self, layout: CheckpointLayout, processor: Any, config: Any) -> Iterable[Fact]:
        """See :meth:`PageFamily.agreed`."""
        for part, key in (
            *((processor.tokenizer, f"{name}_token_id") for name in ("image", "document")),
            (processor.image_processor, "patch_size"),
        ):
            yield key, getattr(part, key), getattr(config, key)

    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        size = processor.size or {"min_pixels": 0, "max_pixels": 0}
        limits = {key: size[key] for key in ("min_pixels", "max_pixels")}
        return {"patch_size": processor.patch_size, "max_side": processor.max_side or 0, **limits}


def fitted_size(height: int, width: int, image: Mapping[str, Any]) -> Grid:
    """Height and width that a page is resized to, by the rule of NeoMME's processor."""
    least, area = image["min_pixels"], height * width
    most, longest = (image[key] or math.inf for key in ("max_pixels", "max_side"))
    scale = (least / area) ** 0.5 if area < least else 1.0
    scale = min(scale, longest / max(height, width), (most / area) ** 0.5)

    def sized(whole: Callable[[float], int]) -> Grid:
        return max(1, whole(height * scale)), max(1, whole(width * scale))

    def fits(size: Grid) -> bool:
        return max(size) <= longest and math.prod(size) <= most

    if scale == 1.0:
        return height, width
    if not fits(sized(round)):
        down, across = sized(math.floor)
        if down * across > most and down >= across:
            down = max(1, most // across)
        elif down * across > most:
            across = max(1, most // down)
        return down, across
    is_short = area < least and math.prod(sized(round)) < least
    return sized(math.ceil) if is_short and fits(sized(math.ceil)) else sized(round)
