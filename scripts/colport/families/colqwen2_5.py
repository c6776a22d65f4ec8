"""ColQwen2.5: Qwen2.5-VL (arXiv:2502.13923) with a projection.

Most blocks of its vision tower attend within square windows of a page. Patches come to the graph
window by window, so that a window is a run of rows; tokens leave the tower in reading order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from colport.base.errors import UnsupportedError
from colport.base.foreign import shape_beside
from colport.families import functional
from colport.families.base import Document, GraphInput, Tensor
from colport.families.pages import grids
from colport.families.pages.base import Tensors
from colport.families.pages.layouts import BiLayout, CheckpointLayout, EngineLayout
from colport.families.pages.qwen_vl import OLDER_NAMES, QwenFamily, QwenRuntime

_PAGE, _WINDOW = "page", "window"


class _Runtime(QwenRuntime):
    """Pages as patches in the order of windows."""

    own_settings: ClassVar[Mapping[str, Any]] = {
        **QwenRuntime.own_settings,
        "image": {**QwenRuntime.own_settings["image"], **shape_beside(__file__)["image"]},
    }

    def page(self, page: Document) -> tuple[np.ndarray, grids.Grid]:
        """See :meth:`PageRuntime.page`."""
        patches, grid = super().page(page)
        return self._ordered(patches, self._windows(grid)), grid

    def places(self, sizes: Sequence[grids.Grid]) -> dict[str, np.ndarray]:
        """See :meth:`QwenRuntime.places`."""
        windows, first = [], 0
        merged = self._image["merge_size"] ** 2
        for grid in sizes:
            windows += [first + tokens for tokens in self._windows(grid)]
            first += math.prod(grid) // merged
        slots = grids.page_slots([(len(tokens), merged) for tokens in windows])
        places = super().places(sizes)
        return {
            **places,
            "patch_positions": self._ordered(places["patch_positions"], windows),
            "window_slots": slots,
            "window_patch_slots": np.flatnonzero(slots >= 0),
            "reading_order": np.argsort(np.concatenate(windows)),
        }

    def _windows(self, grid: grids.Grid) -> list[np.ndarray]:
        merge = self._image["merge_size"]
        return grids.windows((grid[0] // merge, grid[1] // merge), _window_side(self._image))

    def _ordered(self, patches: np.ndarray, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Rows of patches, in which those of a token stand together, in the order of tokens."""
        by_token = patches.reshape(-1, self._image["merge_size"] ** 2, patches.shape[1])
        return by_token[np.concatenate(windows)].reshape(patches.shape)


def _window_side(image: Mapping[str, Any]) -> int:
    """Tokens along a side of a window, as transformers counts them."""
    return image["window_size"] // image["merge_size"] // image["patch_size"]


class ColQwen2_5(QwenFamily):  # noqa: N801
    """``ColQwen2_5`` of colpali-engine."""

    name = "colqwen2_5"
    layouts = (EngineLayout("ColQwen2_5", "qwen2_5_vl", processor="ColQwen2_5_Processor"),)
    runtime_class = _Runtime

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        super().prepare(backbone)
        vision, depth = backbone.visual.config, len(backbone.visual.blocks)
        whole = vision.fullatt_block_indexes
        if not all(0 <= number < depth for number in whole):
            raise UnsupportedError(
                f"vision_config: fullatt_block_indexes are {list(whole)} of {depth} blocks; "
                f"allowed are 0 to {depth - 1}."
            )
        vision.layer_types = [_PAGE if number in whole else _WINDOW for number in range(depth)]

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`."""
        patches, *others = super().page_inputs(layout, config)
        rows = patches.example[0]
        return (
            patches,
            *others,
            GraphInput("window_slots", "int64", (7, 16), {0: "windows", 1: "window"}),
            GraphInput("window_patch_slots", "int64", (rows,), {0: "patches"}),
            GraphInput("reading_order", "int64", (rows // 4,), {0: "merged"}),
        )

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """See :meth:`PageFamily.embed_pages`; transformers' loop with patches in window order."""
        tower = backbone.visual
        hidden = tower.patch_embed(inputs["pixel_values"].to(backbone.dtype))
        tables = tower.rotary_pos_emb(hidden, inputs["patch_positions"])
        attended = {
            _PAGE: self.attended(inputs["page_slots"], inputs["patch_slots"]),
            _WINDOW: self.attended(inputs["window_slots"], inputs["window_patch_slots"]),
        }
        for kind, block in zip(tower.config.layer_types, tower.blocks, strict=True):
            hidden = block(hidden, position_embeddings=tables, **attended[kind])
        return (functional.rows(tower.merger(hidden), inputs["reading_order"]),)

    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        size = config.vision_config.window_size
        image = {**super().image_settings(processor, config), "window_size": size}
        if _window_side(image) < 1:
            raise UnsupportedError(
                f"vision_config: window_size is {size}; a window has at least a token of "
                f"{image['merge_size'] * image['patch_size']}."
            )
        return image


class BiQwen2_5(ColQwen2_5):  # noqa: N801
    """``BiQwen2_5`` of colpali-engine: one vector, that of the last token."""

    name = "biqwen2_5"
    layouts = (
        BiLayout("BiQwen2_5", "qwen2_5_vl", processor="BiQwen2_5_Processor", older=OLDER_NAMES),
    )
