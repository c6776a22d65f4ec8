"""Page preprocessing is bit-equal to the reference processors'."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from colport.families.pages.images import normalise, resize_bicubic, rgb_array


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
