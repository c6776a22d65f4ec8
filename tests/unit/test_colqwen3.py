"""ColQwen3 and BiQwen3 against colpali-engine."""

import json
import shutil
from types import SimpleNamespace

import colpali_engine.models as engine
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from colport import Encoder
from colport.base.errors import CheckpointError, ExportError, UnsupportedError
from colport.explain.explanation import preprocessing
from colport.export.folder import export
from colport.families import registry
from colport.families.pages import grids, qwen_vl
from colport.quantize.folder import quantize
from tests import page_models
from tests.page_checks import QUERIES, SHAPES, check_end_to_end, check_equal, check_library

CLASSES = {"colqwen3": "ColQwen3", "biqwen3": "BiQwen3"}
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1},
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 2, 2]},
}
VISION = {
    **{"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 16},
    **{"out_hidden_size": 64, "num_position_embeddings": 64, "initializer_range": 0.1},
    "deepstack_visual_indexes": [0, 2],
}
SIZES = {"shortest_edge": 1024, "longest_edge": 65536}  # 1 to 64 tokens


def random_model(family):
    """Qwen3-VL of 64 dimensions, with every weight random."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(page_models.demo("colqwen2"))
    names = {"image": "image_pad", "video": "video_pad"}
    names |= {f"vision_{end}": f"vision_{end}" for end in ("start", "end")}
    tokens = {
        f"{n}_token_id": tokenizer.convert_tokens_to_ids(f"<|{t}|>") for n, t in names.items()
    }
    text = {**TEXT, "vocab_size": len(tokenizer)}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=VISION, **tokens)
    torch.manual_seed(0)
    model = getattr(engine, CLASSES[family])(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def save(family, folder):
    random_model(family).save_pretrained(folder)
    save_processor(family, folder)
    return folder


def save_processor(family, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(page_models.demo("colqwen2"))
    images = transformers.Qwen2VLImageProcessor(patch_size=16, size=SIZES)
    processor = getattr(engine, f"{CLASSES[family]}Processor")
    processor(images, tokenizer, transformers.Qwen3VLVideoProcessor()).save_pretrained(folder)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Family to its checkpoint and the encoder of its export, which equals the library."""
    found, root = {}, tmp_path_factory.mktemp("families")
    for family in CLASSES:
        folder = save(family, root / family)
        found[family] = folder, check_end_to_end(family, folder, root / f"{family}-onnx")
    return found


@pytest.fixture
def checkpoint(encoders, tmp_path):
    """A ColQwen3 to change."""
    return shutil.copytree(encoders["colqwen3"][0], tmp_path / "checkpoint")


@pytest.mark.parametrize("family", CLASSES)
def test_pages_and_queries_equal_the_library_itself(family, encoders):
    """colpali-engine's own class and processor, without the reference."""
    folder, encoder = encoders[family]
    model = random_model(family)
    processor = getattr(engine, f"{CLASSES[family]}Processor").from_pretrained(folder)
    check_library(encoder, model, processor)


def test_positions_are_resampled_as_in_transformers():
    sizes = [(2, 2), (4, 34), (16, 16), (2, 400), (50, 2)]
    slots = grids.page_slots(sizes)
    inputs = {
        "patch_positions": np.concatenate([grids.patch_positions(size, 2) for size in sizes]),
        "page_slots": slots,
        "patch_slots": np.flatnonzero(slots >= 0),
    }
    inputs = {name: torch.from_numpy(values) for name, values in inputs.items()}
    grid = torch.tensor([[1, *size] for size in sizes])
    for side in (1, 3, 8, 48):
        settings = {"num_grid_per_side": side, "align_corners": True, "spatial_merge_size": 2}
        rows, weights = get_vision_interpolation_indices_and_weights(grid, **settings)
        found = qwen_vl._resampling(side, inputs)
        assert torch.equal(found[0], rows)
        assert torch.allclose(found[1], weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sections", [[24, 20, 20], [4, 2, 2], [11, 11, 10]])
def test_tables_of_three_axes_are_mixed_as_in_transformers(sections):
    tables = torch.randn(3, 2, 5, sum(sections))
    rotary = SimpleNamespace(mrope_section=sections)
    expected = Qwen3VLTextRotaryEmbedding.recomposition_frequencies(rotary, tables.clone())
    assert torch.equal(qwen_vl._interleaved(sections, tables), expected)


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_other_forms_run(form, encoders, tmp_path):
    folder, encoder = encoders["colqwen3"]
    if form == "int8":
        quantize(encoder.folder, tmp_path / "out")
    else:
        export(folder, tmp_path / "out", precision="fp16")
    pages = [page_models.page(*shape) for shape in SHAPES[:4]]
    found, expected = (at.encode_documents(pages) for at in (Encoder(tmp_path / "out"), encoder))
    cosines = [(one * other).sum(axis=1).mean() for one, other in zip(found, expected, strict=True)]
    assert min(cosines) > (0.99 if form == "int8" else 0.9999)


def test_a_patch_lies_where_the_grid_says(encoders):
    runtime = preprocessing(encoders["colqwen3"][1].folder)
    blank = page_models.page(256, 192)
    grid = runtime.patches(blank)
    for place in ((0, 0), (3, 4), (grid.rows - 1, grid.columns - 1)):
        painted = blank.copy()
        left, top, right, bottom = map(round, grid.region(*place, *blank.size))
        painted.paste("black", [left + 8, top + 8, right - 8, bottom - 8])
        before, after = (runtime.document_batch([page]).feeds for page in (blank, painted))
        changed = (before["pixel_values"] != after["pixel_values"]).any(axis=1)
        token = place[0] * grid.columns + place[1]
        assert np.flatnonzero(changed.reshape(-1, 4).any(axis=1)).tolist() == [token]
        image = before["input_ids"][0] == runtime._settings["image_token_id"]
        assert np.flatnonzero(image)[token] == grid.places[place]


def test_an_adapter_on_a_base_with_older_names(encoders, tmp_path):
    folder = shutil.copytree(encoders["colqwen3"][0], tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    older = {key.removeprefix("model."): value for key, value in tensors.items()}
    assert older.keys().isdisjoint(tensors)
    older["lm_head.weight"] = torch.zeros(3, 64)
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    base = engine.ColQwen3.from_pretrained(folder, dtype=torch.float32)
    targets = page_models.TARGETS["colqwen2"]
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets)).eval()
    page_models.vary(adapted)
    adapted.save_pretrained(folder)
    encoder = check_end_to_end("colqwen3", folder, tmp_path / "out")
    features = registry.get("colqwen3").processor(folder).process_queries(QUERIES[:1])
    with torch.inference_mode():
        expected = adapted(**features)[0].numpy()
    check_equal(encoder.encode_queries(QUERIES[:1]), [expected])


def test_what_is_not_of_this_family_is_refused(checkpoint, tmp_path):
    """Of other libraries: sauerkrautlm-colpali by its width, TomoroAI's by its own code."""
    known = json.loads((checkpoint / "config.json").read_text())

    def refuse(error, message, **changes):
        (checkpoint / "config.json").write_text(json.dumps(known | changes))
        with pytest.raises(error, match=message):
            export(checkpoint, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    vision = known["vision_config"]
    refuse(UnsupportedError, "config.json: dim is 320, of a library that begins", dim=320)
    own = {"AutoModel": "modeling_colqwen3.ColQwen3"}
    message = r"names \['ColQwen3'\], code of its own \(modeling_colqwen3.ColQwen3\), which is nev"
    refuse(CheckpointError, message, model_type="colqwen3", auto_map=own)
    plain = ["Qwen3VLForConditionalGeneration"]
    refuse(CheckpointError, "no family reads this checkpoint", architectures=plain)
    fewer = vision | {"deepstack_visual_indexes": [0]}
    refuse(CheckpointError, "6 unexpected weights, first '.*deepstack_merg", vision_config=fewer)
    never = vision | {"deepstack_visual_indexes": [0, 4]}
    refuse(ExportError, "6 tensors are read by no graph, first .*deepstack", vision_config=never)


def test_a_projection_of_another_width_is_refused(checkpoint, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    cut = {k: v[:128] if "custom_text_proj" in k else v for k, v in tensors.items()}
    save_file(cut, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text_proj.* has shape \[128.*needs \[320"):
        export(checkpoint, tmp_path / "out")
