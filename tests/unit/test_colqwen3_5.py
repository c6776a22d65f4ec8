"""ColQwen3.5 and BiQwen3.5 against colpali-engine."""

import json
import shutil

import colpali_engine.models as engine
import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_5 import Qwen3_5Config

from colport import Encoder
from colport.base.errors import CheckpointError
from colport.explain.explanation import preprocessing
from colport.export.folder import export
from colport.families import registry
from colport.families.adapters import MergedTensor
from colport.hub import checkpoints
from colport.measure.overflow import reaches
from colport.quantize.folder import quantize
from tests import page_models
from tests.page_checks import QUERIES, SHAPES, check_end_to_end, check_equal, check_library

STEMS = {"colqwen3_5": "ColQwen3_5", "biqwen3_5": "BiQwen3_5"}
WEIGHTS = "model.safetensors"
TARGETS = rf"(.*language_model.*({page_models.LINEAR}|in_proj_\w+|out_proj)$|.*custom_text_proj$)"

TEXT = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 8, "max_position_embeddings": 1024},
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
        "mrope_section": [2, 1, 1],
    },
}
VISION = {
    **{"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 16},
    **{"out_hidden_size": 64, "num_position_embeddings": 64, "initializer_range": 0.1},
}
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def load_tokenizer():
    return transformers.AutoTokenizer.from_pretrained(page_models.demo("colqwen2"))


def save_processor(stem, folder):
    images = transformers.Qwen2VLImageProcessor(
        patch_size=16, size={"shortest_edge": 4096, "longest_edge": 131072}
    )
    videos = transformers.Qwen3VLVideoProcessor()
    processor = getattr(engine, f"{stem}Processor")(images, load_tokenizer(), videos)
    processor.save_pretrained(folder)


def save(stem, folder, **text):
    tokenizer = load_tokenizer()
    config = Qwen3_5Config(
        text_config={**TEXT, **text, "vocab_size": len(tokenizer)},
        vision_config=VISION,
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in TOKENS.items()},
        dim=24,
    )
    torch.manual_seed(0)
    model = getattr(engine, stem)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += 0.05 * torch.randn_like(weight)
            if name.endswith("A_log"):  # from states that last for hundreds of tokens to short ones
                weight.copy_(torch.linspace(-6, 1, len(weight)))
    model.save_pretrained(folder)
    save_processor(stem, folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Family to its checkpoint and the encoder of its export, which equals the library."""
    found, root = {}, tmp_path_factory.mktemp("families")
    for family, stem in STEMS.items():
        folder = save(stem, root / family, is_causal=family == "colqwen3_5")
        found[family] = folder, check_end_to_end(family, folder, root / f"{family}-onnx")
    return found


@pytest.fixture
def checkpoint(encoders, tmp_path):
    """A ColQwen3.5 to change."""
    return shutil.copytree(encoders["colqwen3_5"][0], tmp_path / "checkpoint")


def edited(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("family", STEMS)
def test_pages_and_queries_equal_the_library_itself(family, encoders):
    """colpali-engine's own class and processor, without the reference."""
    folder, encoder = encoders[family]
    model = getattr(engine, STEMS[family]).from_pretrained(folder, dtype=torch.float32)
    processor = getattr(engine, f"{STEMS[family]}Processor").from_pretrained(folder)
    check_library(encoder, model, processor)


def test_weights_are_all_read_and_the_size_of_embeddings_is_the_config_s(encoders):
    manifest = encoders["colqwen3_5"][1].manifest
    assert (manifest.dim, manifest.unread) == (24, [])
    assert encoders["biqwen3_5"][1].dim == TEXT["hidden_size"]


def test_padding_on_the_right_changes_nothing(encoders, tmp_path):
    encoder = encoders["colqwen3_5"][1]
    folder = shutil.copytree(encoder.folder, tmp_path / "folder")
    edited(folder, "colport.json", lambda it: it["processing"].update(padding_side="right"))
    pages = [page_models.page(*shape) for shape in SHAPES[:4]]
    other = Encoder(folder)
    check_equal(other.encode_queries(QUERIES), encoder.encode_queries(QUERIES))
    check_equal(other.encode_documents(pages), encoder.encode_documents(pages))


@pytest.mark.parametrize("form", ["opset 21", "fp16", "int8"])
def test_other_forms_run(form, encoders, tmp_path):
    folder, encoder = encoders["colqwen3_5"]
    if form == "int8":
        quantize(encoder.folder, tmp_path / "out")
    elif form == "fp16":
        export(folder, tmp_path / "out", precision="fp16")
    else:
        export(folder, tmp_path / "out", opset=21)
    pages, other = [page_models.page(*shape) for shape in SHAPES[:4]], Encoder(tmp_path / "out")
    found = other.encode_documents(pages) + other.encode_queries(QUERIES)
    expected = encoder.encode_documents(pages) + encoder.encode_queries(QUERIES)
    if form == "opset 21":
        check_equal(found, expected)
    cosines = [(one * other).sum(axis=1).mean() for one, other in zip(found, expected, strict=True)]
    assert min(cosines) > (0.9 if form == "int8" else 0.999)
    for graph in ("text.onnx", "image.onnx"):
        model = ir.load(tmp_path / "out" / graph)
        operators = {node.op_type for node in model.graph}
        assert ("com.microsoft" in model.opset_imports) == (form != "opset 21")
        assert ("Scan" if form == "opset 21" else "LinearAttention") in operators
        inner = [name for name in model.graph.initializers if ".linear_attn.in_proj_" in name]
        kept = {name.split(".in_proj_")[1][0] for name in inner if "@" not in name}
        assert kept == (set("ab") if form == "int8" else set("qzab"))
    if form == "fp16":  # the states are in fp32 there, too
        reached = reaches(other.folder, other.manifest, "cpu", QUERIES[:1], pages[:1], tmp_path)
        assert all(reach.first is None for reach in reached.values())


def test_a_config_may_let_every_token_attend_to_all(encoders):
    """BiQwen3.5's above; transformers heeds the language model's, linear layers stay causal."""
    folder, encoder = encoders["biqwen3_5"]
    config = Qwen3_5Config.from_pretrained(folder)
    assert config.text_config.is_causal is False
    config.text_config.is_causal = True
    model = engine.BiQwen3_5.from_pretrained(folder, config=config, dtype=torch.float32)
    features = registry.get("biqwen3_5").processor(folder).process_queries(QUERIES[:1])
    with torch.inference_mode():
        causal = model(**features).numpy()
    assert np.abs(causal - encoder.encode_queries(QUERIES[:1])[0]).max() > 0.01


def test_a_patch_lies_where_the_grid_says(encoders):
    runtime = preprocessing(encoders["colqwen3_5"][1].folder)
    blank = page_models.page(256, 224)
    grid = runtime.patches(blank)
    for place in ((0, 0), (3, 4), (grid.rows - 1, grid.columns - 1)):
        painted = blank.copy()
        region = [round(side) for side in grid.region(*place, *blank.size)]
        painted.paste("black", [region[0] + 8, region[1] + 8, region[2] - 8, region[3] - 8])
        before, after = (runtime.document_batch([page]).feeds for page in (blank, painted))
        changed = (before["pixel_values"] != after["pixel_values"]).any(axis=1)
        tokens = np.flatnonzero(changed.reshape(-1, 4).any(axis=1))
        assert tokens.tolist() == [place[0] * grid.columns + place[1]]
        image = load_tokenizer().convert_tokens_to_ids("<|image_pad|>")
        assert grid.places[place] == np.flatnonzero(before["input_ids"][0] == image)[tokens[0]]


def adapter(base, folder, targets, rank=4):
    model = engine.ColQwen3_5.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=8, target_modules=targets))
    torch.manual_seed(1)
    page_models.vary(adapted)
    adapted.save_pretrained(folder)
    save_processor("ColQwen3_5", folder)
    declaration = {"path": str(folder), "base": {"path": str(base)}}
    return adapted, checkpoints.resolve(declaration, folder / "assembled")


def test_an_adapter_s_weights_are_those_that_peft_merges(encoders, tmp_path):
    adapted, folder = adapter(encoders["colqwen3_5"][0], tmp_path / "adapter", TARGETS)
    assert registry.detect(folder).name == "colqwen3_5"
    found = registry.get("colqwen3_5").skeleton(folder, "fp32").tensors
    changed = [name for name, entry in found.items() if isinstance(entry, MergedTensor)]
    assert len([name for name in changed if ".linear_attn." in name]) == 6 * 5
    expected = adapted.merge_and_unload().state_dict()
    for name, entry in found.items():
        np.testing.assert_allclose(entry.read(), expected[name].numpy(), atol=2e-6, err_msg=name)


def test_an_adapter_on_convolutions_is_refused(encoders, tmp_path):
    _, folder = adapter(encoders["colqwen3_5"][0], tmp_path / "adapter", ["conv1d"], rank=96)
    with pytest.raises(CheckpointError, match=r"linear_attn\.conv1d', a Conv1d; merged are linear"):
        registry.get("colqwen3_5").skeleton(folder, "fp32")


def test_names_of_an_adapter_s_library_and_heads_of_training_are_read(checkpoint):
    tensors = load_file(checkpoint / WEIGHTS)
    stored = {f"base_model.model.{k}" if "custom" in k else k: v for k, v in tensors.items()}
    save_file({**stored, "mtp.fc.weight": torch.ones(2, 2)}, checkpoint / WEIGHTS, {"format": "pt"})
    found = registry.get("colqwen3_5").skeleton(checkpoint, "fp32").tensors
    assert found.keys() == tensors.keys()
    registry.get("colqwen3_5").reference(checkpoint, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 128}, r"'custom_text_proj\.bias' has shape \[24\], parameter .* needs \[128\]"),
        ({"linear_num_key_heads": 4}, r"linear_attn\.conv1d\.weight' has shape"),
        ({"layer_types": ["full_attention"] * 8}, r"unexpected weights, first '.*linear_attn"),
        ({"num_hidden_layers": 7, "layer_types": None}, "unexpected weights, first '.*layers.7"),
    ],
)
def test_configurations_of_other_weights_are_refused(changes, message, checkpoint):
    def change(content):
        for key, value in changes.items():
            (content if key in content else content["text_config"])[key] = value

    edited(checkpoint, "config.json", change)
    with pytest.raises(CheckpointError, match=message):
        registry.get("colqwen3_5").skeleton(checkpoint, "fp32")


def test_neighbours_are_refused(checkpoint, encoders):
    for architecture in ("Qwen3_5ForConditionalGeneration", "ColQwen3"):
        edited(checkpoint, "config.json", lambda it, a=architecture: it.update(architectures=[a]))
        with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
            registry.detect(checkpoint)
    edited(checkpoint, "config.json", lambda it: it.update(architectures=["BiQwen3_5"]))
    with pytest.raises(CheckpointError, match=r"unexpected weights, first 'custom_text_proj\."):
        registry.detect(checkpoint).skeleton(checkpoint, "fp32")
