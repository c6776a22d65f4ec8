"""Page models in tiles against their own libraries: pixels, prompts, places, graphs, refusals."""

import functools
import json
import shutil
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.image_processing_backends import TorchvisionBackend
from transformers.models.idefics3 import modeling_idefics3
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor

from colport import Encoder
from colport.base.errors import CheckpointError, InputError, UnsupportedError
from colport.export.folder import export
from colport.families import registry
from colport.families.pages import tiles
from colport.hub import checkpoints
from colport.quantize.folder import quantize
from tests import page_checks, page_models, tile_models

ENGINE = "colpali-engine"
LAYOUTS = [
    ("colmodernvbert", "transformers"),
    *((family, ENGINE) for family in tile_models.STEMS),
]
MODERN, IDEFICS = ("colmodernvbert", ENGINE), ("colidefics3", ENGINE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoint and exported folder by layout, once they equal the library."""
    root = tmp_path_factory.mktemp("tiles")

    @functools.cache
    def make(family, library):
        name = f"{family}-{library}"
        # colpali-engine pads on the left, whatever the tokenizer says.
        tokens = {"padding_side": "right" if library == "transformers" else "left"}
        checkpoint = tile_models.save(family, library, root / name, tokens=tokens)
        if (family, library) in (MODERN, IDEFICS):  # both are published as adapters
            adapter = tile_models.save_adapter(family, checkpoint, root / f"{name}-adapter")
            checkpoint = checkpoints.resolve({"path": str(adapter)}, root / f"{name}-assembled")
        page_checks.check_end_to_end(family, checkpoint, root / f"{name}-onnx")
        return checkpoint, root / f"{name}-onnx"

    return make


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_pages_and_queries_equal_the_library(layout, made):
    checkpoint, folder = made(*layout)
    manifest = Encoder(folder).manifest
    assert manifest.processing["library"] == layout[1]
    assert {row["reason"] for row in manifest.unread} == (
        {"makes one vector of an image"} if "modernvbert" in layout[0] else set()
    )
    queries = ["<end_of_utterance>", "<row_1_col_1><global-img>", "a chart " * 300, "b <image> c"]
    encoder, reference = Encoder(folder), registry.get(layout[0]).reference(checkpoint, "cpu")
    expected = reference.encode_queries(queries[:3], 2)
    page_checks.check_equal(encoder.encode_queries(queries[:3], 3), expected)
    for one in (encoder, reference):
        with pytest.raises(InputError, match=r"queries\[3\]: (spells <image>|is refused by its)"):
            one.encode_queries(queries)


def test_smaller_forms_of_a_graph(made, tmp_path):
    checkpoint, folder = made(*MODERN)
    pages = [page_models.page(60, 85), page_models.page(200, 10)]
    expected = Encoder(folder).encode_documents(pages)
    export(checkpoint, tmp_path / "fp16", precision="fp16", opset=21)
    quantize(folder, tmp_path / "int8")
    for name, least in (("fp16", 0.999), ("int8", 0.9)):
        found = Encoder(tmp_path / name).encode_documents(pages, 2)  # one of them is padded
        cosines = [(one * two).sum(axis=1) for one, two in zip(found, expected, strict=True)]
        assert np.concatenate(cosines).mean() > least, name


def prepared(layout, folder, **image):
    """The runtime that a checkpoint's processor becomes, and the processor; no weights."""
    family, library = layout
    config = tile_models.vlm_config(family)
    chosen, _ = tile_models.classes(family, library)
    if library == "transformers":
        config = chosen.config_class(vlm_config=config)
    config.architectures = [chosen.__name__]
    config.save_pretrained(folder)
    processor = tile_models.save_processor(family, library, folder, **image)
    processing = registry.get(family).processing(folder)
    (folder / "exported").mkdir(exist_ok=True)
    processing.tokenizer.save(str(folder / "exported/tokenizer.json"))
    return registry.get(family).runtime(processing.settings, folder / "exported"), processor


PROCESSORS = {
    "published": {},
    "odd": {"size": {"longest_edge": 97}, "resample": 3},
    "one tile": {"size": {"longest_edge": 32}},
    "whole": {"do_image_splitting": False},
}


@pytest.mark.parametrize("case", PROCESSORS)
@pytest.mark.parametrize("layout", [LAYOUTS[0], MODERN, IDEFICS], ids="-".join)
def test_pixels_and_tokens_are_the_processor_s(layout, case, tmp_path):
    runtime, processor = prepared(layout, tmp_path, **PROCESSORS[case])
    shapes = [*page_checks.SHAPES, (33, 32), (129, 65), (31, 29)]
    pages = [page_models.page(*shape) for shape in shapes]
    expected = processor.process_images(pages)
    batch = runtime.document_batch(pages)
    np.testing.assert_array_equal(batch.feeds["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(batch.feeds["attention_mask"], expected["attention_mask"])
    counts = expected["pixel_attention_mask"].flatten(2).any(dim=2).sum(dim=1).tolist()
    own = [found[:count] for found, count in zip(expected["pixel_values"], counts, strict=True)]
    np.testing.assert_array_equal(batch.feeds["pixel_values"], np.concatenate(own))
    assert runtime.lengths("document", pages) == batch.keep.sum(axis=1).tolist()


def size_alone(self, image, size, **_):
    """Resizing that computes no pixels."""
    return torch.zeros(()).expand(1, size.height, size.width)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.sampled_from([49, 364, 512]),
    st.integers(1, 6000),
)
def test_sizes_are_idefics3_s(height, width, tile, longest):
    processor = Idefics3ImageProcessor(size={"longest_edge": longest})
    image = {"longest_edge": longest, "tile_size": tile, "split": True}
    found, whole = tiles.fitted_sizes((height, width), image)
    with patch.object(TorchvisionBackend, "resize", size_alone):
        fitted = processor.resize(torch.zeros(()).expand(1, height, width), processor.size)
        assert found == tuple(fitted.shape[1:])
        try:
            expected = tuple(processor.resize_for_vision_encoder(fitted, tile).shape[1:])
        except ValueError:  # transformers has no word for a side of no pixels
            assert 0 in whole
        else:
            assert whole == expected


def test_a_page_whose_side_vanishes_is_refused(tmp_path):
    runtime, processor = prepared(MODERN, tmp_path)
    runtime._image |= {"longest_edge": 49, "tile_size": 49}
    page = page_models.page(1, 200)
    with pytest.raises(InputError, match=r"documents\[0\]: is a page of 1x200 pixels, of which"):
        runtime.document_batch([page])
    processor.image_processor.size = {"longest_edge": 49}
    processor.image_processor.max_image_size = {"longest_edge": 49}
    with pytest.raises(ValueError, match="size must be"):
        processor.process_images([page])


def test_a_tile_that_the_library_takes_for_padding_is_refused(tmp_path):
    runtime, _ = prepared(MODERN, tmp_path, image_mean=[0.0] * 3)
    page = Image.new("RGB", (128, 96), "white")
    page.paste("black", (0, 0, 32, 32))
    assert page.getpixel((0, 0)) == (0, 0, 0)
    with pytest.raises(InputError, match="has a tile of one colour that its library takes for"):
        runtime.document_batch([page])


@pytest.mark.parametrize(("split", "cells"), [(True, (6, 8)), (False, (2, 2))])
@pytest.mark.parametrize("layout", [MODERN, IDEFICS], ids="-".join)
def test_patches_are_the_cells_of_the_tiles(layout, split, cells, tmp_path):
    runtime, _ = prepared(layout, tmp_path, do_image_splitting=split)
    blank = Image.new("RGB", (128, 96), "white")  # 3 rows of 4 tiles as it is
    grid = runtime.patches(blank)
    before = runtime.document_batch([blank]).feeds
    order = np.flatnonzero(before["input_ids"][0] == runtime._settings["image_token_id"])
    assert (grid.rows, grid.columns) == cells
    for row, column in np.ndindex(cells):
        painted = blank.copy()
        painted.paste("black", tuple(round(edge) for edge in grid.region(row, column, 128, 96)))
        after = runtime.document_batch([painted]).feeds
        changed = (before["pixel_values"] != after["pixel_values"]).any(axis=1)
        changed = changed.reshape(-1, 2, 16, 2, 16).mean(axis=(2, 4)) > 0.6
        tile_cells = np.flatnonzero(changed[:-1] if split else changed)
        assert order[tile_cells].tolist() == [grid.places[row, column]]


def edited(file, **values):
    content = json.loads(file.read_text())
    inside = content.get("image_processor", {})
    for key, value in values.items():
        (inside if key in inside else content)[key] = value
    file.write_text(json.dumps(content))


REFUSED = {
    "another": (
        {"image_processor_type": "SmolVLMImageProcessor"},
        {},
        "the image processor is SmolVLMImageProcessor; exported is Idefics3ImageProcessor",
    ),
    "not padded": ({"do_pad": False}, {}, "do_pad False; exported is True only"),
    "tile": (
        {"max_image_size": {"longest_edge": 48}},
        {},
        "max_image_size is 48, the model takes 32",
    ),
    "tokens": ({"image_seq_len": 9}, {}, "image_seq_len is 9, the model takes 4"),
    "image token": ({}, {"image_token_id": 5}, "id of <image> is .*, the model takes 5"),
    "prompt": (
        {"visual_prompt_prefix": "Describe."},
        {},
        "number of <image> in a prompt is 0, the model takes 1",
    ),
    "prefix": (
        {"query_prefix": "{text}: "},
        {},
        "the processor writes a query otherwise than exported, which is '{text}: {text}<end_",
    ),
    "size": ({"size": {"height": 8, "width": 8}}, {}, "which gives no longest_edge"),
    "none": ({"size": {"longest_edge": 0}}, {}, "has {'longest_edge': 0}; allowed is 1 or more"),
    "nearest": ({"resample": 0}, {}, "the image processor has resample 0; exported is"),
    "as it is": ({"do_resize": False}, {}, "the image processor has do_resize False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_processor_of_other_tiles_is_refused(case, tmp_path):
    prepared(LAYOUTS[0], tmp_path)
    changes, config, sentence = REFUSED[case]
    edited(tmp_path / "processor_config.json", **changes)
    content = json.loads((tmp_path / "config.json").read_text())
    content["vlm_config"] |= config
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises((CheckpointError, UnsupportedError), match=sentence):
        registry.get("colmodernvbert").processing(tmp_path)


@pytest.mark.parametrize(
    ("family", "vision", "sentence"),
    [
        ("colidefics3", {"image_size": 152}, "19 patches a side .* share positions"),
        (
            "colmodernvbert",
            {"model_type": "clip_vision_model"},
            "model_type is 'clip_vision_model' for CLIPVisionConfig; exported are idefics3_vision",
        ),
    ],
)
def test_a_tower_that_the_graph_does_not_hold_is_refused(family, vision, sentence, tmp_path):
    tile_models.save(family, ENGINE, tmp_path, tile_models.vlm_config(family, vision))
    with pytest.raises(UnsupportedError, match=f"vision_config: {sentence}"):
        registry.get(family).skeleton(tmp_path, "fp32")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("siglip_vision_model", "model_type is 'siglip_vision_model' for Idefics3VisionConfig"),
        ("idefics3", "19 patches a side"),  # as older transformers wrote
    ],
)
def test_a_tower_is_known_by_its_class(name, sentence, tmp_path):
    tile_models.save(
        "colidefics3", ENGINE, tmp_path, tile_models.vlm_config("colidefics3", {"image_size": 152})
    )
    content = json.loads((tmp_path / "config.json").read_text())
    content["vision_config"]["model_type"] = name
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UnsupportedError, match=f"vision_config: {sentence}"):
        registry.get("colidefics3").skeleton(tmp_path, "fp32")


@pytest.mark.parametrize("sides", [range(1, 60)])
def test_positions_count_up_where_the_library_s_do(sides):
    for side in sides:
        small = {"hidden_size": 1, "num_attention_heads": 1, "patch_size": 1, "image_size": side}
        config = modeling_idefics3.Idefics3VisionConfig(**small)
        own = modeling_idefics3.Idefics3VisionEmbeddings(config)
        with torch.no_grad():
            own.patch_embedding.weight.zero_()
            own.patch_embedding.bias.zero_()
            own.position_embedding.weight.copy_(torch.arange(side**2)[:, None])
            found = own(torch.zeros(1, 3, side, side), torch.ones(1, side, side, dtype=torch.bool))
        counted = torch.equal(found.flatten(), torch.arange(side**2, dtype=torch.float32))
        assert tiles._counts_up(side) == counted, side


def test_names_of_older_releases_are_read(made, tmp_path):
    checkpoint, _ = made(*MODERN)
    expected = registry.get("colmodernvbert").skeleton(checkpoint, "fp32").tensors
    folder = shutil.copytree(checkpoint, tmp_path / "older")
    weights = load_file(folder / "model.safetensors")
    older = {}
    for name, weight in weights.items():
        if name.startswith("model.vision_model.") and ".vision_model.vision_model." not in name:
            name = name.replace("vision_model.", "vision_model.vision_model.", 1)
        if name.startswith(("model.text_model.", "custom_text_proj.")):
            name = f"base_model.model.{name}"
        older[name] = weight
    assert older.keys() != weights.keys()
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    family = registry.get("colmodernvbert")
    assert family.skeleton(folder, "fp32").tensors.keys() == expected.keys()
    family.reference(folder, "cpu")


@pytest.mark.parametrize(
    ("values", "settings", "is_read"),
    [(1, {}, True), (1.1, {}, False), (1, {"activation_function": "torch.nn.Tanh"}, False)],
)
def test_a_projection_that_sentence_transformers_stores_again(
    values, settings, is_read, made, tmp_path
):
    """As in vidore's adapters: ``1_Dense`` is the projection with its adapter, in bfloat16."""
    family, folder = registry.get("colmodernvbert"), tmp_path / "checkpoint"
    shutil.copytree(made(*MODERN)[0], folder)
    found = family.skeleton(folder, "fp32").tensors
    weights = {
        f"linear.{end}": torch.from_numpy(found[f"custom_text_proj.{end}"].read())
        for end in ("weight", "bias")
    }
    weights = {name: (values * weight).bfloat16() for name, weight in weights.items()}
    identity = "torch.nn.modules.linear.Identity"
    config = {"module_input_name": "token_embeddings", "activation_function": identity, **settings}
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense/config.json").write_text(json.dumps(config))
    save_file(weights, folder / "1_Dense/model.safetensors")
    entries = [("", "base.modules.Transformer"), ("1_Dense", "base.modules.Dense")]
    entries = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in entries]
    (folder / "modules.json").write_text(json.dumps(entries))
    if is_read:
        assert family.skeleton(folder, "fp32").tensors.keys() == found.keys()
        return
    with pytest.raises(UnsupportedError, match=r"modules.json: Dense in '1_Dense' changes the"):
        family.skeleton(folder, "fp32")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"]},
        {"model_type": "smolvlm", "architectures": ["ColIdefics3"]},
        {"model_type": "modernvbert", "architectures": ["ModernVBertForMaskedLM"]},
        {"model_type": "colmodernvbert", "vlm_config": {"model_type": "smolvlm"}},
    ],
)
def test_neighbours_are_of_no_family(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
        registry.detect(tmp_path)
