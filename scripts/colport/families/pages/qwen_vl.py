"""What models around the vision towers of Qwen2-VL and its successors share.

Pages keep their aspect ratio. The vision tower sees all patches of a batch in one row; where each
patch lies comes in as graph inputs, so that one graph serves every grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from colport.base.foreign import shape_beside
from colport.families import functional
from colport.families.base import Batch, Document, GraphInput, PatchGrid, Tensor
from colport.families.pages import grids
from colport.families.pages.base import Fact, PageFamily, PageRuntime, Tensors
from colport.families.pages.layouts import CheckpointLayout, EngineLayout

# The name must contain "flash": transformers then leaves the patches of all pages in one row.
_PAGE_ATTENTION = "colport_page_flash"

_SIZES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""What an image processor calls a size, and what a vision tower does."""


OLDER_NAMES = {r"^model\.(?=(layers|embed_tokens|norm)\.)": "language_model."}
"""Names of the language model's weights before transformers 4.52; colpali-engine's ``Col…`` classes
have them, its ``Bi…`` do not."""


class QwenRuntime(PageRuntime):
    """Pages as patches in one row, and where each of them lies."""

    own_settings = shape_beside(__file__)

    def page(self, page: Document) -> tuple[np.ndarray, grids.Grid]:
        """See :meth:`PageRuntime.page` and :func:`grids.page_patches`."""
        return grids.page_patches(page, self._image)

    def page_batch(self, pages: Sequence[tuple[np.ndarray, grids.Grid]]) -> Batch:
        """See :meth:`PageRuntime.page_batch`."""
        merge, (patches, sizes) = self._image["merge_size"], zip(*pages, strict=True)
        merged = [(rows // merge, columns // merge) for rows, columns in sizes]
        token = self._settings["image_token"]
        tokens = self._page_tokens([token * math.prod(grid) for grid in merged])
        feeds = {
            "pixel_values": patches[0] if len(patches) == 1 else np.concatenate(patches),
            **self.places(sizes),
        }
        if self._settings["positions"] == "grid":
            is_image = tokens.ids == self._settings["image_token_id"]
            feeds["position_ids"] = grids.token_positions(is_image, tokens.mask, merged)
        return self._batch("image", tokens, **feeds)

    def places(self, sizes: Sequence[grids.Grid]) -> dict[str, np.ndarray]:
        """Inputs of the vision tower that say where patches lie, for the pages' patch grids."""
        slots, merge = grids.page_slots(sizes), self._image["merge_size"]
        return {
            "patch_positions": np.concatenate([grids.patch_positions(s, merge) for s in sizes]),
            "page_slots": slots,
            "patch_slots": np.flatnonzero(slots >= 0),
        }

    def page_length(self, page: Document) -> int:
        """See :meth:`PageRuntime.page_length`; without the prompt, which every page has."""
        if grids.shape_fault(page.width, page.height):
            return 1  # refused when it is prepared
        return math.prod(grids.token_grid(page, self._image))

    def grid(self, page: Document) -> PatchGrid:
        """See :meth:`PageRuntime.grid`; a token is what the vision tower merges patches to."""
        prompt = self._settings["document_prompt"]
        starts = [start for start, _ in self._tokens.spans(prompt)]
        first = starts.index(prompt.index(self._settings["image_token"]))
        return PatchGrid.block(*grids.token_grid(page, self._image), first)


class QwenFamily(PageFamily):
    """A vision tower of Qwen2-VL or a successor's, and a causal language model."""

    reserved = ("<|image_pad|>",)
    images_class = "Qwen2VLImageProcessor"
    runtime_class: ClassVar[type[PageRuntime]] = QwenRuntime

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        from transformers import AttentionInterface

        super().prepare(backbone)
        AttentionInterface.register(_PAGE_ATTENTION, _page_attention)
        backbone.visual.config._attn_implementation = _PAGE_ATTENTION

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`."""
        vision = config.vision_config
        patches = 24 * vision.spatial_merge_size**2
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        inputs = [
            GraphInput("pixel_values", "float32", (patches, values), {0: "patches"}),
            GraphInput("patch_positions", "int64", (patches, 2), {0: "patches"}),
            GraphInput("page_slots", "int64", (2, patches - 8), {0: "batch", 1: "slots"}),
            GraphInput("patch_slots", "int64", (patches,), {0: "patches"}),
        ]
        if self.has_grid_positions(layout):
            axes = {1: "batch", 2: "tokens"}
            inputs.append(GraphInput("position_ids", "int64", (3, 2, 33), axes))
        return tuple(inputs)

    def has_grid_positions(self, layout: CheckpointLayout) -> bool:
        """Whether the language model is told where on a page its tokens lie.

        transformers passes no grid on to it, colpali-engine does.
        """
        return isinstance(layout, EngineLayout)

    def tower(self, backbone: Any, inputs: Tensors, **more: Tensor) -> Any:
        """What the vision tower gives, with further inputs of its own."""
        return backbone.visual(
            inputs["pixel_values"].to(backbone.dtype),
            grid_thw=None,
            position_ids=inputs["patch_positions"],
            **self.attended(inputs["page_slots"], inputs["patch_slots"]),
            **more,
        )

    def attended(self, slots: Tensor, back: Tensor) -> dict[str, Any]:
        """Keywords of a tower or a block of it, whose patches attend within a row of slots."""
        return {
            "cu_seqlens": slots,  # unused, as is the next; given so that they are not computed
            "max_seqlen": 1,
            "page_slots": functional.from_zero(slots),
            "page_lengths": (slots >= 0).sum(dim=1),
            "patch_slots": back,
        }

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """See :meth:`PageFamily.embed_pages`."""
        return (self.tower(backbone, inputs).pooler_output,)

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""
        positions = "grid" if self.has_grid_positions(layout) else "sequence"
        return {**super().prompts(layout, processor), "positions": positions}

    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        return {
            **{key: getattr(processor, key) for key in _SIZES},
            "min_pixels": processor.size["shortest_edge"],
            "max_pixels": processor.size["longest_edge"],
        }

    def agreed(self, layout: CheckpointLayout, processor: Any, config: Any) -> Iterable[Fact]:
        """See :meth:`PageFamily.agreed`."""
        yield "image_token_id", processor.image_token_id, config.image_token_id
        for key, name in _SIZES.items():
            yield key, getattr(processor.image_processor, key), getattr(config.vision_config, name)

    def page_fault(self, width: int, height: int) -> str | None:
        """See :meth:`Family.page_fault`."""
        return grids.shape_fault(width, height)


class Qwen3Family(QwenFamily):
    """A model of Qwen3-VL or a successor's.

    The vision tower adds a table of positions, resampled to the grid of each page. The language
    model's rotary embedding takes time, row and column in turns.
    """

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        super().prepare(backbone)
        rotary = backbone.language_model.rotary_emb
        rotary.recomposition_frequencies = partial(_interleaved, rotary.mrope_section)

    def tower(self, backbone: Any, inputs: Tensors, **more: Tensor) -> Any:
        """See :meth:`QwenFamily.tower`."""
        rows, weights = _resampling(backbone.visual.num_grid_per_side, inputs)
        return super().tower(backbone, inputs, interp_indices=rows, interp_weights=weights, **more)


def _resampling(side: int, inputs: Tensors) -> tuple[Tensor, Tensor]:
    """Rows of a square table around each patch, ``int64 [patches, 4]``, and their weights.

    The table's corners lie on those of the page's grid, and what is between is bilinear:
    ``get_vision_interpolation_indices_and_weights`` of transformers without its loops.
    """
    import torch

    positions, slots = inputs["patch_positions"].float(), inputs["page_slots"]
    last = functional.rows(positions, functional.from_zero(slots)).amax(dim=1, keepdim=True)
    last = functional.rows(last.expand(-1, slots.shape[1], -1).flatten(0, 1), inputs["patch_slots"])
    places = positions * (side - 1) / last.clamp_min(1)
    low = places.floor()
    near = torch.stack([low, (low + 1).clamp_max(side - 1)], dim=-1)  # of row and column
    share = torch.stack([low + 1 - places, places - low], dim=-1)
    rows = near[:, 0, :, None] * side + near[:, 1, None, :]
    return rows.flatten(1).long(), (share[:, 0, :, None] * share[:, 1, None, :]).flatten(1)


def _interleaved(sections: Sequence[int], tables: Tensor) -> Tensor:
    """Cosines or sines of three axes as those of one, ``[batch, tokens, size]``.

    transformers writes row and column over time in place, which costs a graph more.
    """
    import torch

    place, mixed = torch.arange(tables.shape[-1], device=tables.device), tables[0]
    for axis in (1, 2):
        is_own = (place % 3 == axis) & (place < 3 * sections[axis])
        mixed = torch.where(is_own, tables[axis], mixed)
    return torch.cat((mixed, mixed), dim=-1)


def _page_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    page_slots: Tensor,
    page_lengths: Tensor,
    patch_slots: Tensor,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention within each page, from and to one row of patches ``[1, heads, patches, size]``.

    Pages become rows of a batch, padded to the longest: the work grows with the square of a page's
    patches, not of the batch's.
    """
    from colport.families.attention import attention, refuse_unwritten

    refuse_unwritten(module, {**settings, "attention_mask": attention_mask})
    heads = query.shape[1]

    def by_page(states: Tensor) -> Tensor:
        rows = states.squeeze(0).transpose(0, 1).flatten(1)
        return functional.rows(rows, page_slots).unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key, value = (by_page(states) for states in (query, key, value))
    output = attention(query, key, value, None, page_lengths, scaling)
    flat = output.transpose(1, 2).flatten(2).flatten(0, 1)
    return functional.rows(flat, patch_slots).unsqueeze(0), None
