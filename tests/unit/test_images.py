"""Page preprocessing is bit-equal to the reference processors'."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from colport.errors import DatasetError
from colport.families.colqwen2 import fitted_size
from colport.families.images import normalise, resize_bicubic, rgb_array


def noisy(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "source", [(1700, 2200), (168, 168), (500, 300), (37, 911), (448, 20), (1, 1), (2, 449)]
)
@pytest.mark.parametrize("target", [(448, 448), (168, 168), (224, 28)])
def test_pixels_equal_the_reference_processor(source, target):
    mean, std = [0.5, 0.45, 0.4], [0.5, 0.27, 0.26]
    height, width = target
    processor = SiglipImageProcessor(
        size={"height": height, "width": width}, resample=3, image_mean=mean, image_std=std
    )
    page = noisy(*source)
    expected = processor(page, return_tensors="np")["pixel_values"][0]
    resized = resize_bicubic(rgb_array(page), height, width)
    np.testing.assert_array_equal(normalise(resized, 1 / 255, mean, std), expected)


@pytest.mark.parametrize("size", [(10, 10), (1000, 30), (3000, 2000), (56, 57), (29, 5000)])
def test_fitted_size_follows_qwen2_vl(size):
    limits = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 602112}
    expected = smart_resize(*size, factor=28, min_pixels=3136, max_pixels=602112)
    assert fitted_size(*size, limits) == expected


def test_a_page_beyond_200_to_1_is_refused():
    limits = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 602112}
    with pytest.raises(DatasetError, match="page of 2001x10 pixels"):
        fitted_size(10, 2001, limits)
