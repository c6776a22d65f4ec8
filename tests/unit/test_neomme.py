"""NeoMME against transformers and sentence-transformers: patches, markers, windows, black edges."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from colport import Encoder
from colport.base.errors import CheckpointError, InputError, UnsupportedError
from colport.explain.picture import draw
from colport.export.folder import export
from colport.families import registry
from colport.families.base import PatchGrid
from colport.families.neomme import fitted_size
from colport.quantize.folder import quantize
from tests import page_checks, page_models

PATCH = 8
TOKENS = {
    "document_token": "<doc>",
    "image_token": "<img>",
    "query_token": "<query>",
    "row_token": "<row>",
}
TEMPLATE = """
{%- set content = messages[0].content -%}
{%- set item = {'type': 'text', 'text': content} if content is string else content[0] -%}
{%- if item.type == 'text' and image_token in item.text -%}
    {{- raise_exception(image_token ~ " is reserved for image documents.") -}}
{%- endif -%}
{%- set written = item.text if item.type == 'text' else image_token -%}
{{- query_token + written + mask_token * 10 if task == 'query' else document_token + written -}}
"""
WINDOWS = [5, 9, 5, None, None, 9, None]
LIMITS = {"size": {"min_pixels": 300, "max_pixels": 20000}, "max_side": 200}


def processor(template=TEMPLATE, **image):
    from transformers import NeoMMEImageProcessor, NeoMMEProcessor, PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(page_models.demo("colpali") / "tokenizer.json"))
    names = {name: f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": token for name, token in names.items()},
        extra_special_tokens=TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )
    images = NeoMMEImageProcessor(patch_size=PATCH, **image)
    return NeoMMEProcessor(images, tokenizer, chat_template=template)


def save(folder, windows=WINDOWS):
    from transformers import NeoMMEConfig, NeoMMEForRetrieval

    tokenizer = processor().tokenizer
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    config = NeoMMEConfig(
        vocab_size=1664,
        embedding_rank=16,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=len(windows),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=PATCH,
        layer_types=kinds,
        per_layer_config={i: {"sliding_window": window} for i, window in enumerate(windows)},
        rope_parameters={
            "full_attention": {"rope_theta": 1000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_theta": 100.0, "partial_rotary_factor": 1.0},
        },
        residual_multiplier=0.5,
        document_token_id=tokenizer.document_token_id,
        image_token_id=tokenizer.image_token_id,
    )
    torch.manual_seed(0)
    model = NeoMMEForRetrieval(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # many begin as zeros
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    processor(**LIMITS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("neomme") / "checkpoint")


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return page_checks.check_end_to_end("neomme", checkpoint, checkpoint.parent / "exported")


@pytest.fixture(scope="module")
def reference(checkpoint):
    return registry.get("neomme").reference(checkpoint, "cpu")


def copied(checkpoint, tmp_path, name, **values):
    """A copy of the checkpoint with other values in a file."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    content = json.loads((folder / name).read_text())
    (content["image_processor"] if name.startswith("processor") else content).update(values)
    (folder / name).write_text(json.dumps(content))
    return folder


def reprocessed(folder, checkpoint, tmp_path, **settings):
    """The encoder with the processing of another checkpoint, and further settings."""
    exported = shutil.copytree(checkpoint.parent / "exported", tmp_path / "exported")
    manifest = json.loads((exported / "colport.json").read_text())
    manifest["processing"] = {**registry.get("neomme").processing(folder).settings, **settings}
    (exported / "colport.json").write_text(json.dumps(manifest))
    return Encoder(exported)


QUERIES = (
    *(
        "",
        "   ",
        "a",
        " a ",
        "a\n",
        "é\r\n図",
        "<mask> <query>",
        "<doc><row> x",
        "{{ text }} {text}",
    ),
    *("<pad> a", "word " * 60),
)


def test_queries_equal_the_library(encoder, reference):
    expected = reference.encode_queries(QUERIES, len(QUERIES))
    page_checks.check_equal(encoder.encode_queries(QUERIES, len(QUERIES)), expected)
    tokens = encoder._runtime.query_tokens("a red chart")
    assert [token.role for token in tokens].count("augmentation") == 10
    assert tokens[0].role == "prompt"
    assert encoder.manifest.processing["reserved"] == ["<img>"]
    with pytest.raises(InputError, match=r"queries\[1\]: spells <img>"):
        encoder.encode_queries(["a", "<img>"])
    with pytest.raises(InputError, match=r"queries\[1\]: is refused by its library"):
        reference.encode_queries(["a", "<img>"])


def test_padding_on_the_left(encoder, checkpoint, tmp_path):
    left = registry.get("neomme").reference(checkpoint, "cpu")
    left._processor.tokenizer.padding_side = "left"
    other = reprocessed(checkpoint, checkpoint, tmp_path, padding_side="left")
    expected = left.encode_queries(QUERIES, len(QUERIES))
    page_checks.check_equal(other.encode_queries(QUERIES, len(QUERIES)), expected)
    pages = [page_models.page(*shape) for shape in page_checks.SHAPES]
    expected = left.encode_documents(pages, len(pages))
    page_checks.check_equal(other.encode_documents(pages, len(pages)), expected)


@pytest.mark.parametrize("limits", [{"size": None, "max_side": None}, {"size": None}])
def test_pages_of_other_limits(limits, encoder, checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path, "processor_config.json", **limits)
    other = reprocessed(folder, checkpoint, tmp_path)
    pages = [page_models.page(*shape) for shape in ((1, 1), (60, 85), (290, 50), (1, 200))]
    expected = registry.get("neomme").reference(folder, "cpu").encode_documents(pages, 4)
    page_checks.check_equal(other.encode_documents(pages, 4), expected)


def test_sizes_are_those_of_the_library():
    from transformers.image_utils import SizeDict
    from transformers.models.neomme.image_processing_neomme import get_resize_output_size

    rng = np.random.default_rng(0)
    for _ in range(4000):
        height, width = (int(side) for side in np.exp(rng.uniform(0, 8, 2)))
        least, span, longest = (int(number) for number in np.exp(rng.uniform(0, 9, 3)))
        limits = {"min_pixels": least, "max_pixels": least + span, "max_side": longest}
        limits = {key: value * int(rng.integers(4) > 0) for key, value in limits.items()}
        known = [limits[key] or None for key in ("min_pixels", "max_pixels")]
        size = SizeDict(min_pixels=known[0], max_pixels=known[1])
        expected = get_resize_output_size(height, width, limits["max_side"] or None, size)
        assert fitted_size(height, width, limits) == expected, (height, width, limits)


@pytest.mark.parametrize("size", [(60, 85), (64, 40), (3, 2), (500, 20)])
def test_a_patch_lies_where_the_grid_says(encoder, size):
    runtime, blank = encoder._runtime, Image.new("RGB", size, "white")
    grid = runtime.patches(blank)
    feeds = encoder.prepare_documents([blank]).feeds
    ids, before = feeds["input_ids"][0], feeds["pixel_values"]
    image = ids[1]
    np.testing.assert_array_equal(np.flatnonzero(ids == image)[1:], grid.places.ravel())
    assert runtime.lengths("document", [blank]) == [len(ids)]
    for place in {(0, 0), (grid.rows - 1, grid.columns - 1), (0, grid.columns // 2)}:
        left, top, right, bottom = grid.region(*place, *size)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size in ((60, 85), (64, 40)):  # kept as they are
            painted = blank.copy()
            painted.paste("black", (round(left), round(top), round(right), round(bottom)))
            after = encoder.prepare_documents([painted]).feeds["pixel_values"]
            changed = np.flatnonzero((before != after).any(axis=1))
            assert [divmod(int(patch), grid.columns) for patch in changed] == [place]


def test_a_heat_map_leaves_out_what_was_added():
    """Of two patches, the page takes one and a half."""
    page, heat = Image.new("RGB", (60, 40), "white"), np.array([[0.0, 1.0]])
    picture = np.asarray(draw(page, heat, (0, 1), [], (60, 40), part=(0.75, 1.0))).sum(axis=2)
    assert np.flatnonzero(np.diff(picture[0].astype(int))).tolist() == [39]
    grid = PatchGrid(np.array([[0, 1]]), (0.75, 1.0))
    assert [grid.region(0, column, 60, 40) for column in (0, 1)] == [
        (0, 0, 40, 40),
        (40, 0, 60, 40),
    ]


def test_other_forms_of_the_graphs(tmp_path):
    checkpoint = save(tmp_path / "checkpoint", [5, None, None])
    reference = registry.get("neomme").reference(checkpoint, "cpu")
    pages = [page_models.page(60, 85), page_models.page(290, 50)]
    expected = reference.encode_documents(pages)
    export(checkpoint, tmp_path / "fp16", precision="fp16", opset=21)
    quantize(tmp_path / "fp16", tmp_path / "int8")
    for name, least in (("fp16", 0.999), ("int8", 0.8)):
        found = Encoder(tmp_path / name).encode_documents(pages)
        assert min((a * b).sum(1).min() for a, b in zip(found, expected, strict=True)) > least


def test_the_layout_of_sentence_transformers(encoder, checkpoint, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    folder, name = tmp_path / "st", "sentence_bert_config.json"
    MultiVectorEncoder(str(checkpoint), device="cpu").save_pretrained(str(folder))
    assert registry.detect(folder).name == "neomme"
    family = registry.get("neomme")
    with pytest.raises(UnsupportedError, match=rf"{name}: modality_config has no message"):
        family.processing(folder)
    content = json.loads((folder / name).read_text())
    message = {"method": "forward", "method_output_name": "embeddings", "format": "structured"}
    content["modality_config"]["message"] = message
    (folder / name).write_text(json.dumps(content))
    assert family.processing(folder).settings == encoder.manifest.processing
    assert family.skeleton(folder, "fp32").tensors.keys()
    known = MultiVectorEncoder(str(folder), device="cpu")
    pages = [page_models.page(60, 85), page_models.page(290, 50)]
    for found, expected in (
        (encoder.encode_queries(QUERIES), known.encode_query(list(QUERIES))),
        (encoder.encode_documents(pages), known.encode_document(pages)),
    ):
        page_checks.check_equal(found, [np.asarray(rows) for rows in expected])


# What another checkpoint gets.


REFUSED = {
    "patch": ("processor_config.json", {"patch_size": 4}, "patch_size is 4, the model takes 8"),
    "image": ("config.json", {"image_token_id": 3}, "image_token_id is .*, the model takes 3"),
    "marker": (
        "config.json",
        {"document_token_id": 3},
        "document_token_id is .*, the model takes",
    ),
    "size": (
        "processor_config.json",
        {"size": {"height": 9, "width": 9}},
        "no min_pixels and no max_p",
    ),
    "no side": ("processor_config.json", {"max_side": 0}, r"has \{'max_side': 0\}; allowed is 1"),
    "unresized": ("processor_config.json", {"do_resize": False}, "do_resize False; exported is"),
    "nearest": ("processor_config.json", {"resample": 0}, "resample 0; exported is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_processor_is_refused(case, checkpoint, tmp_path):
    name, values, message = REFUSED[case]
    folder = copied(checkpoint, tmp_path, name, **values)
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


TEMPLATES = {
    "changed": ("+ written +", "+ written | upper +", "the chat template writes a query as"),
    "unmarked": ("query_token +", "document_token +", "must preserve its leading task marker"),
    "pageless": ("else document_token + written", "else document_token", "0 <img> tokens and 1 im"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_another_template_is_refused(case, checkpoint, tmp_path):
    old, new, message = TEMPLATES[case]
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace(old, new))
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        export(folder, tmp_path / "out")


def test_a_model_of_another_head_is_refused(checkpoint, tmp_path):
    from transformers import NeoMMEForMaskedLM

    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    NeoMMEForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"missing weights, first 'multi_vector_head"):
        registry.detect(folder).skeleton(folder, "fp32")
