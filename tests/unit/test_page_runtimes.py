"""Pages and queries to graph inputs, by settings, on a tokenizer of a few words."""

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from colport.families import registry
from colport.families.base import PatchGrid
from colport.families.pages import grids

WORDS = ["_", "?", "<", "I", "p", "q", "+", "a", "b"]
PIXELS = {"scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.125]}
PLAIN = {"query_template": "<q{text}++", "pad_id": 0, "padding_side": "right"}
COLPALI = {
    **PLAIN,
    "document_prompt": "IIIIIIIII<p",
    "image": {"height": 6, "width": 4, **PIXELS},
}
SIZES = {"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2}
COLQWEN2 = {
    **PLAIN,
    "document_prompt": "<pIp",
    "image_token": "I",
    "image_token_id": 3,
    "positions": "sequence",
    "image": {**SIZES, "min_pixels": 16, "max_pixels": 96, **PIXELS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, "?"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def runtime(family, folder, **changed):
    plain = COLPALI if family == "colpali" else COLQWEN2
    return registry.get(family).runtime({**plain, **changed}, folder)


def words(ids):
    return ["".join(WORDS[token] for token in row) for row in ids]


def page(width, height):
    return Image.fromarray(
        np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
@pytest.mark.parametrize(("side", "padded"), [("right", "<qa++__"), ("left", "__<qa++")])
def test_queries_are_put_into_the_template(family, side, padded, folder):
    batch = runtime(family, folder, padding_side=side).query_batch(["abb", "a"])
    assert batch.graph == "text"
    assert words(batch.feeds["input_ids"]) == ["<qabb++", padded]
    expected = np.array([[letter != "_" for letter in row] for row in ("<qabb++", padded)])
    np.testing.assert_array_equal(batch.feeds["attention_mask"], expected)
    np.testing.assert_array_equal(batch.keep, expected)


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
def test_tokens_of_a_query_have_their_role(family, folder):
    found = runtime(family, folder).query_tokens("a b")
    assert [(token.text, token.role) for token in found] == [
        *(("<", "prompt"), ("q", "prompt")),
        *(("a", "query"), ("", "query"), ("b", "query")),
        *(("+", "augmentation"), ("+", "augmentation")),
    ]


def test_a_page_of_colpali_has_one_size(folder):
    made = runtime("colpali", folder)
    batch = made.document_batch([page(4, 6), page(30, 9)])
    assert batch.graph == "image"
    assert words(batch.feeds["input_ids"]) == ["IIIIIIIII<p"] * 2
    assert batch.feeds["pixel_values"].shape == (2, 3, 6, 4)
    assert batch.keep.all()
    assert batch.feeds["attention_mask"].all()
    values = np.asarray(page(4, 6), np.float32).transpose(2, 0, 1) / 255  # not resized
    for channel, std in enumerate(PIXELS["std"]):
        found = batch.feeds["pixel_values"][0, channel]
        np.testing.assert_allclose(found, (values[channel] - 0.5) / std, atol=1e-5)
    assert made.patches(page(30, 9)).places.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("positions", ["sequence", "grid"])
def test_pages_of_colqwen2_keep_their_shape(folder, positions):
    """Of 8 by 12 pixels there are 6 by 4 patches, hence 3 rows of 2 tokens."""
    made = runtime("colqwen2", folder, positions=positions)
    tall, small = page(8, 12), page(4, 4)
    batch = made.document_batch([tall, small])
    assert words(batch.feeds["input_ids"]) == ["<pIIIIIIp", "<pIp_____"]
    assert batch.keep.sum(axis=1).tolist() == [9, 4]
    assert batch.feeds["pixel_values"].shape == (24 + 4, 3 * 2 * 2 * 2)
    assert batch.feeds["patch_positions"][:5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
    assert batch.feeds["patch_positions"][24:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    slots = batch.feeds["page_slots"]
    assert slots[0].tolist() == list(range(24))
    assert slots[1].tolist() == [24, 25, 26, 27] + [-1] * 20
    # Where each patch lies among the slots of all pages.
    assert slots.ravel()[batch.feeds["patch_slots"]].tolist() == list(range(28))
    assert ("position_ids" in batch.feeds) == (positions == "grid")
    if positions == "grid":
        time, row, column = batch.feeds["position_ids"][:, 0]
        assert time.tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5]
        assert row.tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5]
        assert column.tolist() == [0, 1, 2, 3, 2, 3, 2, 3, 5]
        assert batch.feeds["position_ids"][:, 1, :4].tolist() == [[0, 1, 2, 3]] * 3
    assert made.patches(tall).places.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert made.patches(small).places.tolist() == [[2]]


def test_patches_are_in_the_order_of_their_blocks(folder):
    """Merged blocks one after the other, each with both frames of each channel."""
    image = {
        **COLQWEN2["image"],
        "resample": "bicubic",
        "scale": 1.0,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    patches, grid = grids.page_patches(Image.fromarray(pixels), image)
    assert grid == (2, 4)
    first = np.stack([pixels[:2, :2, channel] for channel in range(3)])
    np.testing.assert_array_equal(patches[0].reshape(3, 2, 4)[:, 0], first.reshape(3, 4))
    np.testing.assert_array_equal(patches[0].reshape(3, 2, 4)[:, 1], first.reshape(3, 4))
    corners = [int(patch[0]) // 3 for patch in patches]  # pixel numbers, 8 in a row
    assert corners == [0, 2, 16, 18, 4, 6, 20, 22]


def test_where_a_patch_lies():
    grid = PatchGrid.block(3, 2, 4)
    assert [grid.place(token) for token in (3, 4, 5, 6, 9, 10)] == [
        *(None, (0, 0), (0, 1), (1, 0), (2, 1), None),
    ]
    assert grid.region(2, 1, 100, 60) == (50, 40, 100, 60)
    assert grid.region(0, 0, 100, 60) == (0, 0, 50, 20)


def test_a_patch_of_the_overview_is_where_its_middle_is():
    places = PatchGrid.block(4, 6, 0).places
    grid = PatchGrid(places, overview=PatchGrid.block(2, 2, 30).places)
    assert [grid.place(token) for token in (23, 24, 30, 31, 33)] == [
        *((3, 5), None, (1, 1), (1, 4), (3, 4)),
    ]


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((4, 4), (4, 4)),
        ((8, 12), (8, 12)),  # 96 pixels, as many as may be
        ((16, 24), (8, 12)),
        ((2, 2), (4, 4)),
        ((6, 6), (8, 8)),  # half of a unit is rounded to even: 1.5 units are 2
        ((10, 4), (8, 4)),  # and 2.5 units are 2
    ],
)
def test_a_page_is_fitted_to_whole_units(size, fitted):
    width, height = size
    assert grids.fitted_size(height, width, COLQWEN2["image"]) == (fitted[1], fitted[0])
    rows, columns = grids.token_grid(page(width, height), COLQWEN2["image"])
    assert (columns * 4, rows * 4) == fitted
