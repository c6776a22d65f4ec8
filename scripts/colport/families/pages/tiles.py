"""What models share whose pages are cut into tiles, as Idefics3 does.

A page is made so large that square tiles cover it. Each tile goes through the vision tower by
itself, and last of all the whole page as one tile. A page of one tile is that alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from colport.base.errors import UnsupportedError
from colport.base.foreign import shape_beside
from colport.families import base
from colport.families.pages.base import Fact, PageFamily, PageRuntime, Tensors
from colport.families.pages.images import PageError, normalise, planes, resize
from colport.families.pages.layouts import CheckpointLayout

_MOST = 4096  # pixels of a side, whatever the processor's size says
_EDGE = "<fake_token_around_image>"
_BUCKETED, _COUNTED = "Idefics3VisionConfig", "SiglipVisionConfig"  # how patches get positions
_TYPES = {_BUCKETED: ("idefics3_vision", "idefics3"), _COUNTED: ("siglip_vision_model",)}
"""What the model type of a vision tower is, and was in older releases of transformers."""

Size = tuple[int, int]
"""Height and width in pixels, or rows and columns of tiles."""


class TileRuntime(PageRuntime):
    """Pages as tiles in one row, as many as each page has."""

    own_settings = shape_beside(__file__)

    def page(self, page: base.Document) -> tuple[np.ndarray, Size]:
        """See :meth:`PageRuntime.page`; ``float32 [tiles, channels, size, size]`` and its grid."""
        image = self._image
        fitted, (height, width) = fitted_sizes((page.height, page.width), image)
        if not height or not width:
            raise PageError(
                f"is a page of {page.width}x{page.height} pixels, of which its library leaves none"
            )
        pixels = resize(planes(page), *fitted, image["resample"])
        pixels = resize(pixels, height, width, image["resample"])
        side = image["tile_size"]
        rows, columns = grid = _grid((height, width), side)
        tiles = resize(pixels, side, side, image["resample"])[None]
        if rows:
            parts = pixels.reshape(-1, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
            tiles = np.concatenate([parts.reshape(-1, *tiles.shape[1:]), tiles])
        values = normalise(tiles.swapaxes(0, 1), image["scale"], image["mean"], image["std"])
        values = values.swapaxes(0, 1)
        suspects = values[~values[:, :, 0, 0].any(axis=1)]
        if not suspects.any(axis=(1, 2, 3)).all():
            raise PageError("has a tile of one colour that its library takes for padding")
        return values, grid

    def page_batch(self, pages: Sequence[tuple[np.ndarray, Size]]) -> base.Batch:
        """See :meth:`PageRuntime.page_batch`."""
        tiles, grids = zip(*pages, strict=True)
        tokens = self._page_tokens([self._text(*grid) for grid in grids])
        pixels = tiles[0] if len(tiles) == 1 else np.concatenate(tiles)
        return self._batch("image", tokens, pixel_values=pixels)

    def _text(self, rows: int, columns: int) -> str:
        """What stands for the tiles of a page, row by row, and for the whole of it."""
        own = self._settings["image_token"] * self._settings["tile_tokens"]
        lines = (
            "".join(f"{_EDGE}<row_{row}_col_{column}>{own}" for column in range(1, columns + 1))
            for row in range(1, rows + 1)
        )
        tiles = "".join(f"{line}\n" for line in lines) + "\n" * (rows > 0)
        return f"{tiles}{_EDGE}<global-img>{own}{_EDGE}"

    def _placed(self, page: base.Document) -> tuple[Size, np.ndarray]:
        """The grid of a page's tiles, and the ids of its tokens."""
        _, size = fitted_sizes((page.height, page.width), self._image)
        grid = _grid(size, self._image["tile_size"])
        return grid, self._page_tokens([self._text(*grid)]).ids[0]

    def page_length(self, page: base.Document) -> int:
        """See :meth:`PageRuntime.page_length`."""
        return len(self._placed(page)[1])

    def grid(self, page: base.Document) -> base.PatchGrid:
        """See :meth:`PageRuntime.grid`; those of the tiles, of a page of one tile its own."""
        (rows, columns), ids = self._placed(page)
        places = np.flatnonzero(ids == self._settings["image_token_id"])
        side = math.isqrt(self._settings["tile_tokens"])
        overview = places[-(side**2) :].reshape(side, side)
        if not rows:
            return base.PatchGrid(overview)
        tiles = places[: -(side**2)].reshape(rows, columns, side, side).swapaxes(1, 2)
        return base.PatchGrid(tiles.reshape(rows * side, columns * side), overview=overview)


def fitted_sizes(size: Size, image: Mapping[str, Any]) -> tuple[Size, Size]:
    """Sizes that a page is resized to, one after the other, by the rules of Idefics3's processor.

    The first has the longest side that is asked for, the second is covered by tiles. A side of it
    is 0 where the processor rounds down to none and then refuses the page.
    """
    fitted = _scaled(size, image["longest_edge"], 2)
    if max(fitted) > _MOST:
        fitted = _scaled(fitted, _MOST, 1)
    tile = image["tile_size"]
    if not image["split"]:
        return fitted, (tile, tile)
    longest = -(-max(fitted) // tile) * tile
    return fitted, _scaled(fitted, longest, tile, least=0)


def _scaled(size: Size, longest: int, unit: int, least: int = 1) -> Size:
    """A size with this longer side; the other one is rounded down, then up to a whole unit."""
    height, width = size
    ratio = width / height
    shorter = int(longest / ratio) if width >= height else int(longest * ratio)
    shorter = max(least, -(-shorter // unit) * unit)
    return (shorter, longest) if width >= height else (longest, shorter)


def _grid(size: Size, tile: int) -> Size:
    """Rows and columns of tiles; none of a page that is one tile."""
    rows, columns = size[0] // tile, size[1] // tile
    return (rows, columns) if max(rows, columns) > 1 else (0, 0)


class TileFamily(PageFamily):
    """A vision tower and a connector of Idefics3 or its like, and a language model."""

    reserved = ("<image>",)
    images_class = "Idefics3ImageProcessor"
    runtime_class = TileRuntime
    image_steps = (("do_pad", (True,)),)

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`; windows are in the masks that the text model makes."""
        vision = backbone.config.vision_config
        kind = type(vision).__name__  # of an Idefics3 always its own, whatever model_type says
        if vision.model_type not in _TYPES.get(kind, ()):
            exported = ", ".join(name for names in _TYPES.values() for name in names)
            raise UnsupportedError(
                f"vision_config: model_type is {vision.model_type!r} for {kind}; exported are "
                f"{exported}, each for its own tower."
            )
        side = vision.image_size // vision.patch_size
        if kind == _BUCKETED and not _counts_up(side):
            raise UnsupportedError(
                f"vision_config: {side} patches a side (image_size {vision.image_size}, patch_size "
                f"{vision.patch_size}) share positions by transformers' rounding; exported are "
                "towers in which every patch has its own."
            )

    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[base.GraphInput, ...]:
        """See :meth:`PageFamily.page_inputs`; tiles of all pages in one row."""
        vision = config.vision_config
        pixels = (5, vision.num_channels, vision.image_size, vision.image_size)
        return (base.GraphInput("pixel_values", "float32", pixels, {0: "tiles"}),)

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[base.Tensor]:
        """See :meth:`PageFamily.embed_pages`.

        The tower's parts one by one: its own way gives every tile a mask, and computes positions
        that are those of its table as it stands, since no tile is padded.
        """
        tower, pixels = backbone.vision_model, inputs["pixel_values"].to(backbone.dtype)
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        patches = patches + tower.embeddings.position_embedding.weight
        hidden = tower.encoder(inputs_embeds=patches, attention_mask=None).last_hidden_state
        return (backbone.connector(tower.post_layernorm(hidden)).flatten(0, 1),)

    def agreed(self, layout: CheckpointLayout, processor: Any, config: Any) -> Iterable[Fact]:
        """See :meth:`PageFamily.agreed`."""
        vision, token = config.vision_config, processor.image_token
        side = processor.image_processor.max_image_size["longest_edge"]
        yield "max_image_size", side, vision.image_size
        factor = getattr(config, "scale_factor", None) or config.pixel_shuffle_factor
        tokens = (vision.image_size // vision.patch_size // factor) ** 2
        yield "image_seq_len", processor.image_seq_len, tokens
        yield f"id of {token}", processor.image_token_id, config.image_token_id
        yield f"number of {token} in a prompt", processor.visual_prompt_prefix.count(token), 1

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.prompts`."""
        return {**super().prompts(layout, processor), "tile_tokens": processor.image_seq_len}

    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """See :meth:`PageFamily.image_settings`."""
        return {
            "longest_edge": processor.size["longest_edge"],
            "tile_size": processor.max_image_size["longest_edge"],
            "split": bool(processor.do_image_splitting),
        }


def _counts_up(side: int) -> bool:
    """Whether Idefics3 gives the patches of a whole tile the positions 0, 1, 2 and so on.

    It looks for each one's place, a fraction of the tile in fp32, among as many bounds.
    """
    import torch

    places = torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor([side]))
    bounds = torch.arange(1 / side, 1.0, 1 / side)
    found = torch.bucketize(places.clamp(max=1.0 - 1e-6), bounds, right=True)
    return torch.equal(found, torch.arange(side))
