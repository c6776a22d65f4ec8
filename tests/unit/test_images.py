"""Page preprocessing is bit-equal to the reference processors'."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from colport.families.pages.images import KERNELS, normalise, planes, resize


def noisy(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def resized_by_torch(pixels, size, kernel):
    import torch
    from torchvision.transforms.v2 import InterpolationMode, functional

    way = InterpolationMode(kernel)
    return functional.resize(torch.from_numpy(pixels), list(size), way, antialias=True).numpy()


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
    resized = resize(planes(page), height, width)
    np.testing.assert_array_equal(normalise(resized, 1 / 255, mean, std), expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *[((64, 300), (64, 29)), ((640, 17), (15, 17)), ((257, 513), (256, 512))],
        *[((2100, 40), (7, 9)), ((30, 44), (512, 384)), ((5, 3), (64, 64)), ((1, 1), (7, 1))],
        *[((2, 40_000), (2, 5)), ((30_000, 3), (7, 3))],
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_pixels_that_overshoot_equal_torch(source, target, kernel):
    """Stripes of black and white: the largest sums, below zero and above 255, and ties."""
    rng = np.random.default_rng(1)
    pages = [np.indices(source).sum(0) // width % 2 * 255 for width in (1, 2, 3, 7)]
    pages += [rng.integers(0, 2, source) * 255, np.full(source, 255), np.zeros(source)]
    for index, page in enumerate(pages):
        pixels = np.stack([page, 255 - page, np.roll(page, 1, axis=1)]).astype(np.uint8)
        expected = resized_by_torch(pixels, target, kernel)
        np.testing.assert_array_equal(resize(pixels, *target, kernel), expected, str(index))


@pytest.mark.parametrize("target", [250, 140])
@pytest.mark.parametrize("kernel", KERNELS)
def test_results_that_fp32_may_round_wrong_equal_torch(target, kernel):
    """Bright noise: of so many large sums, some end within a bit of where rounding changes."""
    pixels = np.random.default_rng(1).integers(200, 256, (3, 2500, 600), dtype=np.uint8)
    for turned, size in ((pixels, (2500, target)), (pixels.swapaxes(1, 2), (target, 2500))):
        expected = resized_by_torch(turned.copy(), size, kernel)
        np.testing.assert_array_equal(resize(turned, *size, kernel), expected)
