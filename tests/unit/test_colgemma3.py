"""ColGemma3 against colpali-engine: chat template, masks of images and windows, layouts."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors

from colport import Encoder
from colport.base.errors import CheckpointError, InputError, UnsupportedError
from colport.export.folder import export
from colport.families import registry
from colport.hub import checkpoints
from colport.quantize.folder import quantize
from tests import page_checks, page_models

SIDE, PATCH, TOKENS = 64, 8, 16
SPECIAL = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
TEMPLATE = """{{ bos_token }}
{%- for message in messages -%}
    {{ '<start_of_turn>' + message['role'] + '\n' }}
    {%- for item in message['content'] -%}
        {%- if item['type'] == 'image' -%}
            {{ '<start_of_image>' }}
        {%- elif item['type'] == 'text' -%}
            {{ item['text'] | trim }}
        {%- endif -%}
    {%- endfor -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
"""
"""What Gemma 3's own does with one message."""
LAYERS = ["sliding_attention"] * 2 + ["full_attention"] * 2 + ["sliding_attention"]
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
}


def processor(template=TEMPLATE, side=SIDE, tokens=TOKENS, **image):
    from colpali_engine.models import ColGemmaProcessor3
    from transformers import Gemma3ImageProcessor, PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(page_models.demo("colpali") / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", 2)])
    names = {name: f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": token for name, token in names.items()},
        extra_special_tokens={**SPECIAL, "start": "<start_of_turn>", "end": "<end_of_turn>"},
        chat_template=template,
    )
    size = {"height": side, "width": side}
    images = Gemma3ImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, **image)
    return ColGemmaProcessor3(images, tokenizer, image_seq_length=tokens)


def config(**text):
    from transformers import Gemma3Config

    tokenizer = processor().tokenizer
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    numbers = {f"{name}_index": getattr(tokenizer, f"{name}_id") for name in SPECIAL}
    vision = {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH}
    own = {
        "num_hidden_layers": len(LAYERS),
        "layer_types": LAYERS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 1664,
        "sliding_window": 6,  # less than the tokens of a page
        "query_pre_attn_scalar": 20,
        "rope_parameters": ROPE,
    }
    return Gemma3Config(
        mm_tokens_per_image=TOKENS,
        text_config={**small, **own, "initializer_range": 0.1, **text},
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "initializer_range": 0.1,
            **small,
            **vision,
        },
        **numbers,
    )


def save(folder, **text):
    from colpali_engine.models import ColGemma3

    torch.manual_seed(0)
    model = ColGemma3(config(**text)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("colgemma3") / "checkpoint")


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return page_checks.check_end_to_end("colgemma3", checkpoint, checkpoint.parent / "exported")


@pytest.fixture(scope="module")
def reference(checkpoint):
    return registry.get("colgemma3").reference(checkpoint, "cpu")


def changed(checkpoint, tmp_path, name="config.json", **values):
    """A copy of the checkpoint with other values in a file; ``a__b`` is ``b`` in ``a``."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    content = json.loads((folder / name).read_text())
    for key, value in values.items():
        *parts, last = key.split("__")
        inner = content
        for part in parts:
            inner = inner[part]
        inner[last] = value
    (folder / name).write_text(json.dumps(content))
    return folder


def test_prompts_are_those_of_the_chat_template(encoder):
    settings = encoder.manifest.processing
    assert settings["query_template"] == "<bos><start_of_turn>user\nQuery: {text}<end_of_turn>\n"
    assert settings["trim"] is True
    assert settings["reserved"] == ["<start_of_image>"]
    assert encoder.manifest.dim == 128


QUERIES = (
    *("", "   ", "\n", "a", " a", "a ", "a\u3000\u2003", "\x1fa\x1f", "a<end_of_turn>\n ", "é\r\n"),
    *("<bos>", "<pad> x", "{{ text | trim }} {text}", "word " * 40),
    # Tokens of a page in a query, which the library takes: each run of them sees itself.
    "<image_soft_token> a <image_soft_token><image_soft_token><image_soft_token> b",
)


def test_queries_equal_the_library(encoder, reference):
    expected = reference.encode_queries(QUERIES, len(QUERIES))
    page_checks.check_equal(encoder.encode_queries(QUERIES, len(QUERIES)), expected)
    with pytest.raises(InputError, match=r"queries\[1\]: spells <start_of_image>"):
        encoder.encode_queries(["a", "<start_of_image>"])
    with pytest.raises(InputError, match=r"queries\[1\]: is refused by its library"):
        reference.encode_queries(["a", "<start_of_image>"])


def test_a_longer_query_has_the_tokens_that_it_is_told_to_have(encoder):
    for query in QUERIES:
        tokens = encoder._runtime.query_tokens(query)
        assert len(tokens) == len(encoder.encode_queries([query])[0])
        assert {token.role for token in tokens} <= {"prompt", "query", "augmentation"}
        own = "".join(token.text for token in tokens if token.role == "query")
        assert set(own) <= set(query)


def test_padding_on_the_right(encoder, checkpoint, reference, tmp_path):
    folder = shutil.copytree(checkpoint.parent / "exported", tmp_path / "right")
    manifest = json.loads((folder / "colport.json").read_text())
    manifest["processing"]["padding_side"] = "right"
    (folder / "colport.json").write_text(json.dumps(manifest))
    right = registry.get("colgemma3").reference(checkpoint, "cpu")
    right._processor.tokenizer.padding_side = "right"
    expected = right.encode_queries(QUERIES, len(QUERIES))
    page_checks.check_equal(Encoder(folder).encode_queries(QUERIES, len(QUERIES)), expected)


def test_a_patch_lies_where_the_grid_says(encoder):
    blank = Image.new("RGB", (SIDE, SIDE), "white")
    grid = encoder._runtime.patches(blank)
    ids = encoder.prepare_documents([blank]).feeds["input_ids"][0]
    image = encoder._runtime._tokens.encode([SPECIAL["image_token"]])[0][-1]
    np.testing.assert_array_equal(np.flatnonzero(ids == image), grid.places.ravel())
    for place in ((0, 0), (1, 3), (3, 2)):
        painted = blank.copy()
        painted.paste("black", tuple(round(edge) for edge in grid.region(*place, SIDE, SIDE)))
        one, two = (encoder.prepare_documents([p]).feeds["pixel_values"] for p in (blank, painted))
        rows, columns = np.nonzero((one != two)[0, 0])
        step = SIDE // grid.columns
        assert {*zip(rows // step, columns // step, strict=True)} == {place}
        assert len(rows) == step**2


def test_other_forms_of_the_graphs(tmp_path):
    kinds = ["sliding_attention", "full_attention"]
    checkpoint = save(tmp_path / "checkpoint", layer_types=kinds, num_hidden_layers=2)
    reference = registry.get("colgemma3").reference(checkpoint, "cpu")
    pages = [page_models.page(60, 85), page_models.page(290, 50)]
    expected = reference.encode_documents(pages)
    export(checkpoint, tmp_path / "plain", opset=21)
    plain = Encoder(tmp_path / "plain")
    page_checks.check_equal(plain.encode_documents(pages), expected)
    page_checks.check_equal(plain.encode_queries(QUERIES), reference.encode_queries(QUERIES))
    quantize(tmp_path / "plain", tmp_path / "int8")
    found = Encoder(tmp_path / "int8").encode_documents(pages)
    assert min((a * b).sum(1).min() for a, b in zip(found, expected, strict=True)) > 0.8


def test_names_of_older_releases_are_read(checkpoint, reference, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    known = {name: t.key for name, t in sources(folder).items()}
    tensors = load_file(folder / "model.safetensors")
    older = {
        key.replace("language_model.", "language_model.model.").replace(
            "vision_tower.", "vision_tower.vision_model."
        ): value
        for key, value in tensors.items()
    }
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    assert older.keys().isdisjoint(key for key in known.values() if "layers" in key)
    assert sources(folder).keys() == known.keys()
    old = registry.get("colgemma3").reference(folder, "cpu")
    page_checks.check_equal(old.encode_queries(QUERIES), reference.encode_queries(QUERIES))


def sources(folder):
    return registry.get("colgemma3").skeleton(folder, "fp32").tensors


def test_an_adapter_equals_the_library(reference, tmp_path):
    """On a base whose window is another."""
    from colpali_engine.models import ColGemma3
    from peft import LoraConfig, get_peft_model

    base = save(tmp_path / "base", sliding_window=9)
    torch.manual_seed(5)
    model = ColGemma3.from_pretrained(base, dtype=torch.float32)
    targets = r"(.*(language_model).*(q_proj|down_proj).*$|.*(custom_text_proj).*$)"
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    page_models.vary(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    processor().save_pretrained(tmp_path / "adapter")
    folder = checkpoints.resolve({"path": str(tmp_path / "adapter")}, tmp_path / "assembled")
    export(folder, tmp_path / "exported")
    queries, pages = ["a red chart", ""], [page_models.page(90, 310)]
    expected = ProcessorPair(adapted.merge_and_unload()).encode(queries, pages)
    encoder = Encoder(tmp_path / "exported")
    found = [*encoder.encode_queries(queries), *encoder.encode_documents(pages)]
    page_checks.check_equal(found, expected)
    plain = registry.get("colgemma3").reference(base, "cpu").encode_documents(pages)
    for other in (plain, reference.encode_documents(pages)):
        assert page_models.largest_difference(found[2:], other) > 0.01


class ProcessorPair:
    """The engine's own model and processor, without any of ours."""

    def __init__(self, model):
        self._model, self._processor = model.eval(), processor()

    def encode(self, queries, pages):
        rows = []
        with torch.inference_mode():
            for features in (
                *(self._processor.process_queries([query]) for query in queries),
                *(self._processor.process_images([page]) for page in pages),
            ):
                rows.append(self._model(**features)[0].numpy())
        return rows


# What another checkpoint gets.


def test_a_template_that_keeps_blanks_is_read(checkpoint):
    from colport.families.pages.base import chat_query

    kept = processor(TEMPLATE.replace(" | trim", ""))
    written = "<bos><start_of_turn>user\nQuery: {text}<end_of_turn>\n"
    assert chat_query(kept, written) == {"query_template": written, "trim": False}


@pytest.mark.parametrize(
    "filters", ["trim | lower", "trim | replace('  ', ' ')", "trim | truncate(500)", "escape"]
)
def test_a_template_that_changes_a_text_is_refused(filters, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    template = TEMPLATE.replace("item['text'] | trim", f"item['text'] | {filters}")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UnsupportedError, match=r"the chat template writes a query as .* changes"):
        registry.get("colgemma3").processing(folder)


def test_without_a_chat_template(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"colgemma3 cannot read it .*chat_template"):
        export(folder, tmp_path / "out")


REFUSED = {
    "crops": ({"image_processor__do_pan_and_scan": True}, "do_pan_and_scan True; exported is None"),
    "pixels": (
        {"image_processor__size": {"height": 32, "width": 64}},
        "the processor's height is 32, the model takes 64",
    ),
    "tokens": ({"image_seq_length": 4}, "number of image tokens is 4, the model takes 16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_processor_is_refused(case, checkpoint, tmp_path):
    values, message = REFUSED[case]
    folder = changed(checkpoint, tmp_path, "processor_config.json", **values)
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["image_token_index", "mm_tokens_per_image"])
def test_another_page_of_the_model_is_refused(key, checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path, **{key: 4})
    with pytest.raises(CheckpointError, match=r"number of image tokens is .*, the model takes"):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize("names", [["BiGemma3"], ["Gemma3ForConditionalGeneration"], []])
def test_a_neighbour_is_of_no_family(names, checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path, architectures=names)
    with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
        registry.detect(folder)
