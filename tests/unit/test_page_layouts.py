"""Page models in every layout, and pages and queries of every shape, against their own library."""

import json
import re
import shutil
import types
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from colport import Encoder
from colport.base.errors import CheckpointError, DatasetError, InputError, UnsupportedError
from colport.base.files import read_json, write_json
from colport.export.folder import export
from colport.families import registry
from colport.families.tokens import check_ids
from tests import page_models

ENGINE, TRANSFORMERS = "colpali-engine", "transformers"
LAYOUTS = [(f, lib) for f in ("colpali", "colqwen2") for lib in (TRANSFORMERS, ENGINE)]
TOLERANCE = 1e-5
PUBLISHED = {"shortest_edge": 3136, "longest_edge": 602112}  # vidore/colqwen2-v1.0: 768 tokens


@pytest.fixture(scope="module")
def exported_models(exported, checkpoint_folders, tmp_path_factory):
    """Checkpoint and exported folder of each layout: the demos, and colpali-engine's own."""
    root = tmp_path_factory.mktemp("layouts")
    found = {(f, TRANSFORMERS): (checkpoint_folders[f], exported[f]) for f in families_of_pages()}
    for family in families_of_pages():
        checkpoint = page_models.save(family, ENGINE, root / family, max_shard_size="200KB")
        export(checkpoint, root / f"{family}-onnx")
        found[family, ENGINE] = checkpoint, root / f"{family}-onnx"
    return found


def families_of_pages():
    return sorted({family for family, _ in LAYOUTS})


@pytest.fixture(scope="module", params=LAYOUTS, ids="-".join)
def pair(request, exported_models):
    return encoder_and_reference(request.param[0], *exported_models[request.param])


@pytest.fixture(scope="module", params=[TRANSFORMERS, ENGINE])
def colqwen2(request, exported_models):
    return encoder_and_reference("colqwen2", *exported_models["colqwen2", request.param])


def encoder_and_reference(family, checkpoint, folder):
    return Encoder(folder), registry.get(family).reference(checkpoint, "cpu")


def reprocessed(family, checkpoint, folder, tmp_path, change):
    """The pair with other processor files: ``change`` edits a copy of the checkpoint."""
    changed = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    change(changed)
    copy = shutil.copytree(folder, tmp_path / "exported")
    manifest = read_json(copy / "colport.json")
    manifest["processing"] = registry.get(family).processing(changed).settings
    write_json(copy / "colport.json", manifest)
    return encoder_and_reference(family, changed, copy)


def edited(name, **values):
    def change(folder):
        file = folder / name
        content = json.loads(file.read_text())
        inner = values.keys() & {"size", "resample", "image_processor_type"}
        (content["image_processor"] if inner else content).update(values)
        file.write_text(json.dumps(content))

    return change


def check_queries(encoder, reference, queries, batch_size=8):
    found = encoder.encode_queries(queries, batch_size)
    expected = reference.encode_queries(queries, batch_size=2)
    assert page_models.largest_difference(found, expected) < TOLERANCE
    return found


def check_pages(encoder, reference, pages, batch_size=8):
    found = encoder.encode_documents(pages, batch_size)
    expected = reference.encode_documents(pages, batch_size=2)
    assert page_models.largest_difference(found, expected) < TOLERANCE
    return found


QUERIES = [
    "a red pie chart",
    "",
    " spaces\tand\nlines ",
    "Which page shows a blue table, a green line chart and a photo of something orange?",
    "ünïcode: 图表 🙂",
    "{text} <bos> <|im_end|>",
]


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_queries_equal_the_library(pair, batch_size):
    check_queries(*pair, QUERIES, batch_size)


def test_queries_that_spell_special_tokens(pair):
    encoder, reference = pair
    names = ("<image>", "<bos>", "<eos>", "<pad>", "<mask>", "<|image_pad|>", "<|video_pad|>")
    refused = []
    for token in (*names, "<|im_end|>", "<|endoftext|>", "<|vision_start|>"):
        queries = ["a chart", f"find {token} in the manual"]
        if token not in encoder.manifest.processing["reserved"]:
            check_queries(encoder, reference, queries)
            continue
        with pytest.raises(InputError, match=rf"queries\[1\]: spells {re.escape(token)}"):
            encoder.encode_queries(queries)
        with pytest.raises(InputError, match=r"queries\[1\]: is refused by its library"):
            reference.encode_queries(queries)
        refused.append(token)
    assert refused == encoder.manifest.processing["reserved"]


@pytest.mark.parametrize("family", families_of_pages())
def test_special_tokens_that_are_text_leave_no_page(family, exported_models, tmp_path):
    change = edited("tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(UnsupportedError, match=r"tokenizer_config.json: has split_special_tok"):
        reprocessed(family, *exported_models[family, TRANSFORMERS], tmp_path, change)


def test_queries_beyond_the_position_limit_equal_the_library(pair):
    # Both demos say max_position_embeddings: 1024; rotary positions have no end, nothing is cut.
    found = check_queries(*pair, ["a chart " * 600, "short"])
    assert found[0].shape[0] > 1100


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", families_of_pages())
def test_padding_on_either_side(family, side, exported_models, tmp_path):
    change = edited("tokenizer_config.json", padding_side=side)
    files = exported_models[family, TRANSFORMERS]
    encoder, reference = reprocessed(family, *files, tmp_path, change)
    batch = encoder._runtime.query_batch(QUERIES)
    assert batch.feeds["attention_mask"][1, 0 if side == "left" else -1] == 0
    check_queries(encoder, reference, QUERIES)
    check_pages(encoder, reference, [page_models.page(60, 90), page_models.page(200, 90)])


def test_a_colpali_query_alone_is_the_reference(exported_models):
    """colpali-engine itself, on one query: with padding it would attend causally."""
    checkpoint, folder = exported_models["colpali", ENGINE]
    model = page_models.model_class("colpali", ENGINE).from_pretrained(checkpoint).eval()
    from colpali_engine.models import ColPaliProcessor

    features = ColPaliProcessor.from_pretrained(checkpoint).process_queries(QUERIES[3:4])
    with torch.inference_mode():
        expected = model(**features)[0].numpy()
    encoder, reference = encoder_and_reference("colpali", checkpoint, folder)
    for one in (encoder.encode_queries(QUERIES)[3], reference.encode_queries(QUERIES)[3]):
        assert np.abs(one - expected).max() < TOLERANCE


SIZES = [
    (60, 85),
    (85, 60),
    (1, 1),
    (28, 28),
    (200, 1),
    (1, 200),
    (1400, 7),
    (29, 5000),
    (640, 480),
]


def test_every_page_shape_equals_the_library(pair):
    pages = [page_models.page(*size) for size in SIZES]
    together = check_pages(*pair, pages, batch_size=len(pages))
    alone = pair[0].encode_documents(pages, batch_size=1)
    assert page_models.largest_difference(together, alone) < TOLERANCE


def test_any_number_of_pages(pair):
    encoder, reference = pair
    pages = [page_models.page(200, 100 + 40 * n, seed=n) for n in range(5)]
    expected = reference.encode_documents(pages, batch_size=5)
    for count in (1, 2, 3, 4, 5):
        found = encoder.encode_documents(pages[:count], batch_size=count)
        assert page_models.largest_difference(found, expected[:count]) < TOLERANCE


def test_pages_of_every_mode(pair):
    page = page_models.page(90, 120)
    check_pages(*pair, [page.convert(mode) for mode in ("L", "1", "P", "RGBA", "CMYK")])


def test_a_page_beyond_200_to_1_is_refused(colqwen2):
    with pytest.raises(DatasetError, match="page of 1x201 pixels: sides may differ at most 200"):
        colqwen2[0].encode_documents([Image.new("RGB", (1, 201))])
    with pytest.raises(ValueError, match="aspect ratio"):
        colqwen2[1].encode_documents([Image.new("RGB", (1, 201))])


@pytest.mark.parametrize("library", [TRANSFORMERS, ENGINE])
@pytest.mark.parametrize("limit", ["own", "published"])
def test_the_most_patches_equal_the_library(library, limit, exported_models, tmp_path):
    files = exported_models["colqwen2", library]
    if limit == "published":
        change = edited("processor_config.json", size=PUBLISHED)
        encoder, reference = reprocessed("colqwen2", *files, tmp_path, change)
        most, size = 768, (672, 896)
    else:
        encoder, reference = encoder_and_reference("colqwen2", *files)
        most, size = 72, (224, 252)
    full = page_models.page(*size)
    pages = [full, page_models.page(56, 700), page_models.page(2480, 3508)]
    found = check_pages(encoder, reference, pages, batch_size=3)
    image = encoder._runtime.document_batch([full]).feeds["input_ids"] == image_token(encoder)
    assert image.sum() == most
    assert found[0].shape[0] >= max(rows.shape[0] for rows in found)


def image_token(encoder):
    return encoder.manifest.processing["image_token_id"]


def test_sizes_under_the_names_of_transformers_4(exported_models):
    family, checkpoint = registry.get("colqwen2"), exported_models["colqwen2", ENGINE][0]

    def sizes(tmp, **size):
        folder = shutil.copytree(checkpoint, tmp, dirs_exist_ok=True)
        edited("processor_config.json", size=size)(folder)
        found = family.processing(folder).settings["image"]
        pages = [page_models.page(33, 500), page_models.page(640, 90)]
        counted = family.processor(folder).process_images(pages)["image_grid_thw"].prod(dim=1)
        return found["min_pixels"], found["max_pixels"], counted.tolist()

    place = checkpoint.with_name("old-sizes")
    new = sizes(place, shortest_edge=3136, longest_edge=28224)
    assert new[:2] == (3136, 28224)
    assert sizes(place, min_pixels=3136, max_pixels=28224) == new


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"shortest_edge": 3136}, "gives no max_pixels"),
        ({"height": 28, "width": 28}, "gives no min_pixels and no max_pixels"),
        (
            {"shortest_edge": 0, "longest_edge": 28224},
            r"has \{'shortest_edge': 0\}; allowed is 1 or more",
        ),
    ],
)
def test_a_size_that_no_encoder_would_open_is_refused(size, message, exported_models, tmp_path):
    folder = shutil.copytree(exported_models["colqwen2", ENGINE][0], tmp_path / "checkpoint")
    edited("processor_config.json", size=size)(folder)
    with pytest.raises(UnsupportedError, match=rf"image processor.*{message}"):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize("family", families_of_pages())
def test_a_token_beyond_the_embeddings_is_found_at_export(family, exported_models, tmp_path):
    folder = shutil.copytree(exported_models[family, ENGINE][0], tmp_path / "checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    tokenizer.add_tokens([f"<one more {n}>" for n in range(rows - len(tokenizer) + 1)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"has 1 tokens beyond the {rows} rows .* '<one mor"):
        export(folder, tmp_path / "out")


def test_an_image_token_beyond_the_embeddings_is_paligemma_s_own():
    known = {"model_input_names": ["input_ids", "attention_mask"]}
    tokenizer = types.SimpleNamespace(get_vocab=lambda: {"a": 0, "<image>": 1}, **known)
    check_ids("x", tokenizer, 1, unread=[1])
    with pytest.raises(CheckpointError, match=r"x: .* has 1 tokens beyond the 1 rows .*<image>"):
        check_ids("x", tokenizer, 1)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(("family", "library"), LAYOUTS)
def test_a_quantization_that_the_weights_do_not_have(
    family, library, inner, exported_models, tmp_path
):
    """A QLoRA run leaves it in the checkpoint that it merges."""
    folder = shutil.copytree(exported_models[family, library][0], tmp_path / "checkpoint")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    part = config.get("vlm_config", config)
    part = part["text_config"] if inner else config
    part["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps(config))
    found = registry.get(family).reference(folder, "cpu").encode_queries(QUERIES[:1])
    assert (
        page_models.largest_difference(
            found, Encoder(exported_models[family, library][1]).encode_queries(QUERIES[:1])
        )
        < 1e-5
    )
    weights = folder / "model.safetensors"
    if library == TRANSFORMERS:
        tensors = load_file(weights)
        name = next(key for key in tensors if key.endswith("q_proj.weight"))
        save_file(tensors | {name: tensors[name].to(torch.uint8)}, weights, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"quantization_config is 'bitsandbytes', and t"):
            registry.get(family).skeleton(folder, "fp32")


@pytest.mark.parametrize("family", families_of_pages())
def test_other_image_steps_are_unsupported(family, exported_models, tmp_path):
    folder = shutil.copytree(exported_models[family, ENGINE][0], tmp_path / "checkpoint")
    file = folder / "processor_config.json"
    content = json.loads(file.read_text())
    for key, value, allowed in (
        ("resample", 0, "3 or 2 or 1"),
        ("do_resize", False, "True"),
        ("do_center_crop", True, "None or False"),
    ):
        changed = {**content, "image_processor": {**content["image_processor"], key: value}}
        file.write_text(json.dumps(changed))
        with pytest.raises(UnsupportedError, match=f"has {key} {value}; exported is {allowed} onl"):
            registry.get(family).processing(folder)


@pytest.mark.parametrize(
    ("family", "kind", "size"),
    [
        ("colpali", "Qwen2VL", {"shortest_edge": 3136, "longest_edge": 28224}),
        ("colqwen2", "Siglip", {"height": 28, "width": 28}),
    ],
)
def test_an_image_processor_of_another_class_is_refused(
    family, kind, size, exported_models, tmp_path
):
    folder = shutil.copytree(exported_models[family, ENGINE][0], tmp_path / "checkpoint")
    kind = f"{kind}ImageProcessor"
    edited("processor_config.json", image_processor_type=kind, size=size)(folder)
    with pytest.raises(UnsupportedError, match=f"the image processor is {kind}; exported is "):
        registry.get(family).processing(folder)


@pytest.mark.parametrize("resample", [1, 2])
@pytest.mark.parametrize("family", families_of_pages())
def test_pages_resized_by_another_filter(family, resample, exported_models, tmp_path):
    change = edited("processor_config.json", resample=resample)
    models = exported_models[family, ENGINE]
    pair = reprocessed(family, *models, tmp_path, change)
    check_pages(*pair, [page_models.page(60, 90), page_models.page(500, 390)])


IMAGE_VALUES = {
    **{"one-mean": ("image_mean", 0.5), "one-std": ("image_std", [0.4]), "zero": ("image_mean", 0)},
    **{"none": ("image_mean", None), "four": ("image_std", [0.5] * 4), "text": ("image_mean", "x")},
    **{"divisor": ("image_std", [0.5, 0, 0.5]), "scale": ("rescale_factor", "1/255")},
}


@pytest.mark.parametrize("case", IMAGE_VALUES)
@pytest.mark.parametrize("family", families_of_pages())
def test_numbers_of_an_image_processor_are_the_library_s_or_named(
    family, case, exported_models, tmp_path
):
    key, value = IMAGE_VALUES[case]

    def change(folder):
        file = folder / "processor_config.json"
        content = json.loads(file.read_text())
        content["image_processor"][key] = value
        file.write_text(json.dumps(content))

    refused = case not in ("one-mean", "one-std", "zero")
    message = rf"checkpoint: the image processor's {key} is .*; allowed is a number, or one for"
    with pytest.raises(UnsupportedError, match=message) if refused else nullcontext():
        pair = reprocessed(family, *exported_models[family, ENGINE], tmp_path, change)
    if not refused:
        check_pages(*pair, [page_models.page(168, 90)])


@pytest.mark.parametrize("family", families_of_pages())
def test_a_tokenizer_that_says_nothing_of_padding_is_refused(family, exported_models, tmp_path):
    folder = shutil.copytree(exported_models[family, ENGINE][0], tmp_path / "checkpoint")
    file = folder / "tokenizer_config.json"
    content = {**json.loads(file.read_text()), "model_input_names": ["input_ids"]}
    file.write_text(json.dumps(content))
    with pytest.raises(UnsupportedError, match=r"\['input_ids'\]; attention_mask has to be among"):
        registry.get(family).processing(folder)


BEHIND = {
    "projection": ("base.modules.dense.Dense", {}, "Dense in '1_More' changes"),
    "skiplist": ("x.MultiVectorMask", {"skiplist_words": ["a"]}, "MultiVectorMask skiplist_words"),
    "kept": ("x.MultiVectorMask", {"keep_only_token_ids": [1]}, "keep_only_token_ids in '1_More'"),
    "nothing": ("x.MultiVectorMask", {"skiplist_words": [], "keep_only_token_ids": None}, None),
    "unit": ("x.Normalize", {}, None),
    "unknown": ("x.Pooling", {}, "module 1 .* is sentence_transformers.x.Pooling"),
}


@pytest.mark.parametrize("case", BEHIND)
@pytest.mark.parametrize("family", families_of_pages())
def test_what_stands_behind_a_page_model_is_not_lost(family, case, exported_models, tmp_path):
    name, config, refusal = BEHIND[case]
    folder = shutil.copytree(exported_models[family, TRANSFORMERS][0], tmp_path / "checkpoint")
    (folder / "1_More").mkdir()
    (folder / "1_More/config.json").write_text(json.dumps(config))
    modules = [("", "base.modules.Transformer"), ("1_More", name)]
    entries = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(entries))
    steps = (lambda: registry.get(family).skeleton(folder, "fp32"),)
    steps += (lambda: registry.get(family).reference(folder, "cpu"),)
    for step in steps:
        if refusal is None:
            step()
        else:
            with pytest.raises(UnsupportedError, match=rf"modules.json: .*{refusal}"):
                step()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "colqwen2", "vlm_config": {"model_type": "qwen2_5_vl"}},
        {"model_type": "colqwen2", "vlm_config": "qwen2_vl"},
        {"model_type": "paligemma", "architectures": ["BiPali"]},
        {"model_type": "paligemma", "architectures": ["PaliGemmaForConditionalGeneration"]},
        {"model_type": "qwen2_5_vl", "architectures": ["ColQwen2"]},
        {"model_type": "qwen2_vl"},
    ],
)
def test_other_models_are_of_no_family(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no family reads this checkpoint; supported are"):
        registry.detect(tmp_path)


@pytest.mark.parametrize("vlm", [False, True], ids=["engine", "transformers"])
@pytest.mark.parametrize("family", page_models.TARGETS)
def test_a_page_checkpoint_with_the_files_of_sentence_transformers_is_one_of_pages(
    family, vlm, tmp_path
):
    config = json.loads((page_models.demo(family) / "config.json").read_text())
    if not vlm:
        name = page_models.model_class(family, ENGINE).__name__
        config = {**config["vlm_config"], "architectures": [name]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").write_text("[]")
    assert registry.detect(tmp_path).name == registry.require(family, tmp_path).name == family
    with pytest.raises(CheckpointError, match=f"as family 'colbert' but is '{family}'"):
        registry.require("colbert", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "vision_config": {}}))
    with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
        registry.detect(tmp_path)


def test_the_manifest_says_how_positions_count(exported_models):
    for library, positions in ((TRANSFORMERS, "sequence"), (ENGINE, "grid")):
        manifest = Encoder(exported_models["colqwen2", library][1]).manifest
        assert manifest.processing["library"] == library
        assert manifest.processing["positions"] == positions
        assert ("position_ids" in manifest.graphs["image"].inputs) == (positions == "grid")


# Weights.


def stored(family, checkpoint):
    tensors = registry.get(family).skeleton(checkpoint, "fp32").tensors
    return {name: entry.read().astype(np.float32) for name, entry in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "100KB"}], ids=["whole", "sharded"])
@pytest.mark.parametrize(("family", "library"), LAYOUTS)
def test_every_dtype_and_sharding_is_read(family, library, shards, dtype, tmp_path):
    page_models.save(family, library, tmp_path / "checkpoint", dtype=dtype, **shards)
    count = len(list((tmp_path / "checkpoint").glob("*.safetensors")))
    assert (count > 3) == bool(shards)
    expected = page_models.random_model(family, library).to(dtype).float().state_dict()
    found = stored(family, tmp_path / "checkpoint")
    assert found.keys() == {name for name in expected if "lm_head" not in name}
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name].numpy(), err_msg=name)


def renamed(checkpoint, change):
    """Apply ``change`` to the tensors of an unsharded checkpoint."""
    file = checkpoint / "model.safetensors"
    values = {k: v.contiguous().clone() for k, v in change(load_file(file)).items()}
    save_file(values, file, {"format": "pt"})


OLDER = {  # names that the published checkpoints have and today's classes no longer write
    ("colpali", ENGINE): ("vision_tower.", "vision_tower.vision_model."),
    ("colqwen2", ENGINE): ("language_model.", "model."),
}


@pytest.mark.parametrize(("family", "library"), OLDER)
def test_names_of_older_releases_are_read(family, library, tmp_path):
    page_models.save(family, library, tmp_path / "checkpoint")
    expected = stored(family, tmp_path / "checkpoint")
    new, old = OLDER[family, library]
    renamed(tmp_path / "checkpoint", lambda t: {k.replace(new, old): v for k, v in t.items()})
    assert any(old in key for key in load_file(tmp_path / "checkpoint/model.safetensors"))
    found = stored(family, tmp_path / "checkpoint")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


HEADS = {
    ("colpali", TRANSFORMERS): "vlm.lm_head.weight",
    ("colpali", ENGINE): "model.lm_head.weight",
    ("colqwen2", TRANSFORMERS): "vlm.lm_head.weight",
    ("colqwen2", ENGINE): "lm_head.weight",
}


@pytest.mark.parametrize(("family", "library"), LAYOUTS)
def test_a_tied_head_may_be_stored_but_not_alone(family, library, tmp_path):
    """No embedding reads the head; the libraries would make up word embeddings it stands for."""
    folder = page_models.save(family, library, tmp_path / "checkpoint")
    expected = stored(family, folder)
    head = HEADS[family, library]

    def words(tensors):
        return next(key for key in tensors if key.endswith("embed_tokens.weight"))

    renamed(folder, lambda t: t | {head: t[words(t)]})
    assert stored(family, folder).keys() == expected.keys()
    registry.get(family).reference(folder, "cpu")
    renamed(folder, lambda t: {key: value for key, value in t.items() if key != words(t)})
    for load in (stored, lambda f, c: registry.get(f).reference(c, "cpu")):
        with pytest.raises(CheckpointError, match=r"1 missing weights, .*embed_tokens.weight"):
            load(family, folder)


# What a wrong checkpoint gets.


def shard_of(folder, key):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][key]


def in_shard(key, change):
    def damage(folder):
        file = shard_of(folder, key)
        values = change(load_file(file))
        save_file({k: v.contiguous() for k, v in values.items()}, file, {"format": "pt"})

    return damage


PROJECTION = "custom_text_proj.weight"
DAMAGES = {
    "missing": (
        lambda folder: without(folder, PROJECTION),
        "1 missing weights, first 'custom_text_proj.weight'",
    ),
    "absent": (
        in_shard(PROJECTION, lambda t: {k: v for k, v in t.items() if k != PROJECTION}),
        r"index\.json: tensor 'custom_text_proj.weight' is not in its shard model-0000",
    ),
    "extra": (
        in_shard(PROJECTION, lambda t: t | {"extra.weight": torch.ones(3)}),
        r"model-.*\.safetensors: 1 unexpected weights, first 'extra.weight'; Col\w+ has no such",
    ),
    "shape": (
        in_shard(PROJECTION, lambda t: t | {PROJECTION: t[PROJECTION][:-1]}),
        r"model-.*\.safetensors: tensor 'custom_text_proj.weight' has shape \[127, 64\]",
    ),
    "truncated": (
        lambda f: shard_of(f, PROJECTION).write_bytes(shard_of(f, PROJECTION).read_bytes()[:-9]),
        r"model-.*\.safetensors: is truncated",
    ),
    "no shard": (
        lambda folder: shard_of(folder, PROJECTION).unlink(),
        r"model-.*\.safetensors: cannot be read",
    ),
    "pickled": (
        lambda folder: pickled(folder),
        r"pytorch_model.bin: pickled weights are not read",
    ),
}


def without(folder, key):
    in_shard(key, lambda t: {k: v for k, v in t.items() if k != key})(folder)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    del index["weight_map"][key]
    file.write_text(json.dumps(index))


def pickled(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_leaves_nothing(damage, exported_models, tmp_path):
    change, message = DAMAGES[damage]
    folder = shutil.copytree(exported_models["colqwen2", ENGINE][0], tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match=message):
        registry.get("colqwen2").reference(folder, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("bidirectional", "message"),
    [(False, "use_bidirectional_attention False; exported is True only"), (True, None)],
)
def test_layers_that_no_graph_is_written_for(bidirectional, message):
    text = types.SimpleNamespace(use_bidirectional_attention=bidirectional)
    config = types.SimpleNamespace(get_text_config=lambda: text)
    backbone = types.SimpleNamespace(config=config)
    refused = pytest.raises(UnsupportedError, match=f"text_config has {message}")
    with refused if message else nullcontext():
        registry.get("colpali").prepare(backbone)


@pytest.mark.parametrize(("token", "read"), [(6, [1, 0, 2]), (7, [1, 0, 2]), (5, [1, 5, 2])])
def test_an_image_token_beyond_the_vocabulary_reads_row_0(token, read):
    table = torch.nn.Embedding(6, 3)
    backbone = types.SimpleNamespace(
        config=types.SimpleNamespace(image_token_id=token),
        vocab_size=6,
        get_input_embeddings=lambda: table,
    )
    words = registry.get("colpali").embed_words(backbone, torch.tensor([[1, token, 2]]))
    assert torch.equal(words[0], table.weight[read])


def test_processors_are_of_page_checkpoints_alone(tmp_path):
    with pytest.raises(CheckpointError, match="is not a colpali checkpoint"):
        registry.get("colpali").processor(tmp_path)
    with pytest.raises(UnsupportedError, match="a model of passages has a tokenizer, no processor"):
        registry.get("colbert").processor(tmp_path)
