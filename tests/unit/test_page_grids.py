"""Where pages, patches and tokens lie, against transformers' own functions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
    smart_resize,
)
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

from colport.families.pages import grids
from colport.families.pages.images import PageError

LIMITS = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
grid_sizes = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 20000),
    st.integers(1, 20000),
    st.integers(1, 80),
    st.integers(1, 1000),
)
def test_fitted_size_is_qwen2_vl_s(height, width, fewest, more):
    limits = {"min_pixels": fewest * 784, "max_pixels": (fewest + more) * 784}
    try:
        expected = smart_resize(height, width, factor=28, **limits)
    except ValueError:
        with pytest.raises(PageError):
            grids.fitted_size(height, width, LIMITS | limits)
        return
    assert grids.fitted_size(height, width, LIMITS | limits) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9))
def test_patches_are_the_processor_s(height, width, seed):
    assume(max(height, width) <= 200 * min(height, width))
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 56448})
    page = Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )
    expected = processor(page, return_tensors="np")
    image = LIMITS | {
        "min_pixels": 3136,
        "max_pixels": 56448,
        "resample": "bicubic",
        "scale": processor.rescale_factor,
        "mean": processor.image_mean,
        "std": processor.image_std,
    }
    patches, grid = grids.page_patches(page, image)
    assert expected["image_grid_thw"].tolist() == [[1, *grid]]
    np.testing.assert_array_equal(patches, expected["pixel_values"])


@settings(max_examples=100, deadline=None)
@given(grid_sizes)
def test_patch_positions_and_slots_are_transformers(merged):
    sizes = [(2 * rows, 2 * columns) for rows, columns in merged]
    thw = torch.tensor([[1, *size] for size in sizes])
    expected = get_vision_position_ids(thw, 2).numpy()
    found = np.concatenate([grids.patch_positions(size, 2) for size in sizes])
    np.testing.assert_array_equal(found, expected)
    boundaries = get_vision_cu_seqlens(thw).tolist()
    slots = grids.page_slots(sizes)
    for row, start, stop in zip(slots, boundaries, boundaries[1:], strict=False):
        assert row[row >= 0].tolist() == list(range(start, stop))
        assert (row[: stop - start] >= 0).all()


@settings(max_examples=100, deadline=None)
@given(grid_sizes, st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_token_positions_are_qwen2_vl_s(merged, before, after, left):
    lengths = [before + rows * columns + after for rows, columns in merged]
    mask = np.zeros((len(merged), max(lengths)), np.int64)
    is_image = np.zeros(mask.shape, bool)
    for row, ((rows, columns), length) in enumerate(zip(merged, lengths, strict=True)):
        start = max(lengths) - length if left else 0
        mask[row, start : start + length] = 1
        is_image[row, start + before : start + before + rows * columns] = True
    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace()))
    model.config.vision_config.spatial_merge_size = 2
    model.get_vision_position_ids = lambda *a, **k: Qwen2VLModel.get_vision_position_ids(
        model, *a, **k
    )
    expected, _ = Qwen2VLModel.get_rope_index(
        model,
        torch.from_numpy(mask),
        torch.from_numpy(is_image.astype(np.int32)),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in merged]),
        attention_mask=torch.from_numpy(mask),
    )
    found = grids.token_positions(is_image, mask, merged)
    np.testing.assert_array_equal(found, expected.numpy())
