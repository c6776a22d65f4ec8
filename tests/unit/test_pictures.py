"""A captioner's pictures are bit-equal to those of its image processor."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.foreign import misfit
from colport.families.base import check_settings
from colport.families.captions import pictures
from colport.families.pages.images import PageError, as_page

FOLDER = Path("checkpoint")
SIZES = [(1, 1), (224, 224), (333, 97), (97, 333), (2000, 31), (31, 2000), (223, 225), (1, 300)]

PROCESSORS = [
    ("CLIP", {}),
    ("CLIP", {"size": {"shortest_edge": 100, "longest_edge": 133}}),
    ("CLIP", {"size": {"shortest_edge": 225, "longest_edge": 225}, "resample": 2}),
    ("CLIP", {"size": 64, "crop_size": {"height": 90, "width": 33}, "resample": 1}),
    ("CLIP", {"size": {"height": 96, "width": 50}, "do_center_crop": False}),
    ("ViT", {}),
    ("ViT", {"size": 30, "image_mean": 0.5, "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1}),
    ("ViT", {"size": 97, "do_center_crop": True, "crop_size": {"height": 98, "width": 64}}),
    ("DeiT", {}),
    ("DeiT", {"size": 384, "do_center_crop": False, "do_convert_rgb": True}),
    ("Blip", {}),
    ("Donut", {"size": [60, 80]}),
    ("Donut", {"size": {"height": 61, "width": 140}, "resample": 3}),
    ("Donut", {"size": {"height": 140, "width": 61}, "do_align_long_axis": True}),
    ("Donut", {"size": [50, 50], "do_align_long_axis": True, "resample": 1}),
    ("Donut", {"size": [40, 70], "do_center_crop": True, "crop_size": {"height": 9, "width": 99}}),
]


def processor(kind, settings):
    return getattr(transformers, f"{kind}ImageProcessor")(**settings)


def noisy(size, mode="RGB"):
    bands = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.default_rng(size).integers(0, 256, (*size[::-1], bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(2) if bands == 1 else pixels, mode)


def check(images, picture):
    """Compares a picture, and says how large it becomes."""
    settings = json.loads(json.dumps(pictures.image_settings(FOLDER, images)))
    assert misfit(settings, pictures.SHAPE, closed=True) is None
    try:
        expected = images(as_page(picture), return_tensors="np")["pixel_values"][0]
    except (RuntimeError, ValueError):  # torch resizes to no size of 0
        with pytest.raises(PageError, match=r"would be resized from \d+x\d+ to (0x|\d+x0 )"):
            pictures.prepare(picture, settings)
        return None
    prepared = pictures.prepare(picture, settings)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared, expected)
    assert prepared.shape == (3, *pictures.picture_size(settings))
    return prepared.shape


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS)
def test_pictures_equal_the_processor(kind, settings):
    images = processor(kind, settings)
    refused = [size for size in SIZES if check(images, noisy(size)) is None]
    assert all(max(size) > 60 * min(size) for size in refused)


def test_the_size_of_donut_itself():
    assert check(processor("Donut", {}), noisy((300, 170))) == (3, 2560, 1920)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("kind", ["CLIP", "ViT", "DeiT", "Blip"])
def test_pictures_of_other_modes_are_pages_first(kind, mode):
    check(processor(kind, {}), noisy((61, 120), mode))


def test_a_picture_that_takes_too_much_is_refused():
    settings = pictures.image_settings(FOLDER, processor("CLIP", {}))
    with pytest.raises(PageError, match="from 1x9000 to 224x2016000 pixels; allowed are 1 to 26"):
        pictures.prepare(Image.new("RGB", (1, 9000)), settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Siglip", {}, "is SiglipImageProcessor; exported is CLIPImageProcessor or ViTImageProc"),
        ("ViT", {"resample": 0}, "has resample 0; exported is 3 or 2 or 1 only"),
        ("ViT", {"do_rescale": False}, "has do_rescale False; exported is True only"),
        ("ViT", {"do_pad": True}, "has do_pad True; exported is None or False only"),
        ("Donut", {"do_pad": False}, "has do_pad False; exported is True only"),
        ("Donut", {"do_thumbnail": False}, "has do_thumbnail False; exported is True only"),
        ("Donut", {"size": {"shortest_edge": 9}}, r"size is {'shortest_edge': 9}; .* a width\.$"),
        ("ViT", {"size": {"longest_edge": 9}}, "size is {'longest_edge': 9}; .* or a shortest_ed"),
        ("ViT", {"size": {"max_height": 9, "max_width": 9}}, "size is {'max_height': 9, 'max_wi"),
        ("ViT", {"size": {"height": 0, "width": 9}}, "size is {'height': 0, 'width': 9}; export"),
        ("CLIP", {"size": {"shortest_edge": -9}}, "size is {'shortest_edge': -9}; exported is a h"),
        ("ViT", {"do_center_crop": True}, "crop_size is {}; exported is a height and a width"),
        ("CLIP", {"do_center_crop": False}, "size {'shortest_edge': 224} and do_center_crop False"),
    ],
)
def test_what_a_processor_does_otherwise_is_refused(kind, settings, message):
    with pytest.raises(UnsupportedError, match=message):
        pictures.image_settings(FOLDER, processor(kind, settings))


def test_a_step_that_is_not_known_is_refused():
    settings = pictures.image_settings(FOLDER, processor("ViT", {}))
    settings["steps"].append({"mirror": {}})
    with pytest.raises(ArtifactError, match=r"processing.image.steps\[1\].mirror is unknown here"):
        check_settings({"image": settings}, {"image": pictures.SHAPE}, FOLDER)
