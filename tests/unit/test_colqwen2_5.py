"""ColQwen2.5 and the single vectors of Qwen2-VL and Qwen2.5-VL, against colpali-engine."""

import json
import shutil

import colpali_engine.models as engine
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.vision_utils import get_vision_window_index

from colport import Encoder
from colport.base.errors import CheckpointError, UnsupportedError
from colport.cli import inspection
from colport.explain.explanation import preprocessing
from colport.explain.record import explain_record
from colport.export.folder import export
from colport.families import registry
from colport.families.pages import grids
from colport.families.pages.qwen_vl import OLDER_NAMES
from colport.folder import manifest
from colport.hub import checkpoints
from colport.quantize.folder import quantize
from colport.report import model_card
from colport.scoring.forms import Form
from colport.scoring.score import score_forms
from colport.scoring.store import EmbeddingSet
from tests import page_models
from tests.page_checks import QUERIES, SHAPES, check_end_to_end, check_equal, check_library

CLASSES = {"colqwen2_5": "ColQwen2_5", "biqwen2_5": "BiQwen2_5", "biqwen2": "BiQwen2"}
PROCESSORS = {"biqwen2": "BiQwen2Processor"}
SINGLE = ["biqwen2", "biqwen2_5"]
WEIGHTS = "model.safetensors"


def config(family):
    """Qwen2.5-VL of 64 dimensions: two of its blocks attend within windows of 2 by 2 tokens, and a
    layer of its language model to the last eight tokens."""
    known = page_models.vlm_config("colqwen2")
    if family == "biqwen2":
        return known
    known = known.to_dict()
    text = {**known["text_config"], "model_type": "qwen2_5_vl_text"}
    text |= {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
    text |= {"use_sliding_window": True, "max_window_layers": 1}
    vision = {
        **{"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48},
        **{"out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1, 3]},
        "initializer_range": 0.1,
    }
    tokens = {key: value for key, value in known.items() if key.endswith("_token_id")}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)


def random_model(model_class, family, seed=0):
    torch.manual_seed(seed)
    model = model_class(config(family)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def save_processor(family, folder):
    known = transformers.ColQwen2Processor.from_pretrained(page_models.demo("colqwen2"))
    name = PROCESSORS.get(family, f"{CLASSES[family]}_Processor")
    getattr(engine, name)(
        image_processor=known.image_processor,
        tokenizer=known.tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
    ).save_pretrained(folder)


def save(family, folder):
    random_model(getattr(engine, CLASSES[family]), family).save_pretrained(folder)
    save_processor(family, folder)
    return folder


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
    """A ColQwen2.5 to change."""
    return shutil.copytree(encoders["colqwen2_5"][0], tmp_path / "checkpoint")


@pytest.mark.parametrize("family", CLASSES)
def test_pages_and_queries_equal_the_library_itself(family, encoders):
    """colpali-engine's own class and processor, without the reference."""
    folder, encoder = encoders[family]
    model = random_model(getattr(engine, CLASSES[family]), family)
    processor = getattr(engine, PROCESSORS.get(family, f"{CLASSES[family]}_Processor"))
    processor = processor.from_pretrained(folder)
    check_library(encoder, model, processor)


@pytest.mark.parametrize("window", [28, 56, 70, 112, 140])
def test_windows_are_those_of_transformers(window):
    sizes = [(2, 2), (4, 34), (16, 16), (18, 6), (50, 2), (12, 20)]
    index, ends = get_vision_window_index(
        torch.tensor([[1, *size] for size in sizes]), 2, window, 14
    )
    windows, first = [], 0
    for rows, columns in sizes:
        found = grids.windows((rows // 2, columns // 2), window // 28)
        windows += [first + tokens for tokens in found]
        first += rows * columns // 4
    assert np.array_equal(np.concatenate(windows), index)
    assert [4 * len(tokens) for tokens in windows] == np.diff(ends).tolist()


def test_windows_change_the_result(encoders, tmp_path):
    """Else equality would say nothing of them."""
    folder = shutil.copytree(encoders["colqwen2_5"][1].folder, tmp_path / "folder")
    content = json.loads((folder / "colport.json").read_text())
    content["processing"]["image"]["window_size"] = 84
    (folder / "colport.json").write_text(json.dumps(content))
    page = [page_models.page(280, 200)]
    one, other = (
        at.encode_documents(page)[0] for at in (encoders["colqwen2_5"][1], Encoder(folder))
    )
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("form", ["opset 21", "int8"])
def test_other_forms_run(form, encoders, tmp_path):
    folder, encoder = encoders["colqwen2_5"]
    if form == "int8":
        quantize(encoder.folder, tmp_path / "out")
    else:
        export(folder, tmp_path / "out", opset=21)
    pages = [page_models.page(*shape) for shape in SHAPES[:4]]
    found, expected = (at.encode_documents(pages) for at in (Encoder(tmp_path / "out"), encoder))
    if form == "opset 21":
        check_equal(found, expected)
    cosines = [(one * other).sum(axis=1).mean() for one, other in zip(found, expected, strict=True)]
    assert min(cosines) > (0.99 if form == "int8" else 0.9999)


def test_a_patch_lies_where_the_grid_says(encoders):
    runtime = preprocessing(encoders["colqwen2_5"][1].folder)
    blank = page_models.page(252, 224)
    grid = runtime.patches(blank)
    for place in ((0, 0), (3, 4), (grid.rows - 1, grid.columns - 1)):
        painted = blank.copy()
        region = [round(side) for side in grid.region(*place, *blank.size)]
        painted.paste("black", [region[0] + 8, region[1] + 8, region[2] - 8, region[3] - 8])
        before, after = (runtime.document_batch([page]).feeds for page in (blank, painted))
        changed = (before["pixel_values"] != after["pixel_values"]).any(axis=1)
        tokens = changed.reshape(-1, 4).any(axis=1)[before["reading_order"]]
        assert np.flatnonzero(tokens).tolist() == [place[0] * grid.columns + place[1]]


def edited(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fullatt_block_indexes": [1, 4]}, r"fullatt_block_indexes are \[1, 4\] of 4 blocks"),
        ({"fullatt_block_indexes": [-1]}, "fullatt_block_indexes are"),
        ({"window_size": 27}, "window_size is 27; a window has at least a token of 28"),
        ({"depth": 3, "fullatt_block_indexes": [1]}, "unexpected weights, first 'visual.blocks.3"),
    ],
)
def test_configurations_that_no_graph_is_written_for(changes, message, checkpoint, tmp_path):
    edited(checkpoint, "config.json", lambda content: content["vision_config"].update(changes))
    with pytest.raises((UnsupportedError, CheckpointError), match=message):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_a_batch_decides_are_refused(kind, checkpoint, tmp_path):
    def change(content):
        rope = content["text_config"]["rope_parameters"]
        rope |= {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 64}
        rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}

    edited(checkpoint, "config.json", change)
    with pytest.raises(UnsupportedError, match=f"rope_type is {kind}, whose frequencies depend on"):
        registry.get("colqwen2_5").skeleton(checkpoint, "fp32")


def test_a_pooling_of_sentence_transformers_is_refused(encoders, tmp_path):
    folder = shutil.copytree(encoders["biqwen2_5"][0], tmp_path / "checkpoint")
    kinds = {"": "models.Transformer", "1_Pooling": "models.Pooling"}
    entries = [{"path": path, "type": f"sentence_transformers.{k}"} for path, k in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(UnsupportedError, match=r"module 1 \('1_Pooling'\) is .*Pooling; exported"):
        registry.get("biqwen2_5").skeleton(folder, "fp32")


def test_a_projection_that_an_adapter_brings_to_a_plain_base_is_refused(encoders, tmp_path):
    folder = shutil.copytree(encoders["colqwen2_5"][0], tmp_path / "checkpoint")
    plain = ["Qwen2_5_VLForConditionalGeneration"]
    edited(folder, "config.json", lambda content: content.update(architectures=plain))
    adapter = {"modules_to_save": ["custom_text_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(CheckpointError, match=r"names \['Qwen2_5.*\(modules_to_save: \['custom_te"):
        registry.detect(folder)


@pytest.mark.parametrize("changed", [{"merge_size": 1}, {"patch_size": 28}])
def test_an_image_processor_of_another_tower(changed, checkpoint):
    def change(content):
        content["image_processor"].update(changed)

    edited(checkpoint, "processor_config.json", change)
    ((key, value),) = changed.items()
    with pytest.raises(CheckpointError, match=f"processor's {key} is {value}, the model takes"):
        registry.get("colqwen2_5").processing(checkpoint)


def test_an_image_token_of_another_tokenizer(checkpoint):
    edited(checkpoint, "config.json", lambda content: content.update(image_token_id=5))
    with pytest.raises(CheckpointError, match=r"image_token_id is \d+, the model takes 5"):
        registry.get("colqwen2_5").processing(checkpoint)


def test_a_neighbour_s_weights_are_refused(encoders, tmp_path):
    folder = shutil.copytree(encoders["biqwen2_5"][0], tmp_path / "checkpoint")
    edited(folder, "config.json", lambda content: content.update(architectures=["ColQwen2_5"]))
    with pytest.raises(CheckpointError, match=r"2 missing weights, first 'custom_text_proj\."):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize("family", CLASSES)
def test_names_of_older_releases_are_read(family, encoders, tmp_path):
    folder = shutil.copytree(encoders[family][0], tmp_path / "checkpoint")
    tensors = load_file(folder / WEIGHTS)
    older = {key.replace("language_model.", "model."): value for key, value in tensors.items()}
    assert older.keys() != tensors.keys()
    save_file(older, folder / WEIGHTS, {"format": "pt"})
    found = registry.get(family).skeleton(folder, "fp32").tensors
    for name, entry in found.items():
        assert np.array_equal(entry.read(), tensors[name].numpy()), name
    reference, encoder = registry.get(family).reference(folder, "cpu"), encoders[family][1]
    check_equal(encoder.encode_queries(QUERIES[:2]), reference.encode_queries(QUERIES[:2]))


@pytest.mark.parametrize("family", SINGLE)
def test_an_adapter_on_the_plain_model(family, tmp_path):
    """nomic-embed-multimodal: the base has no class of colpali-engine, the processor names it."""
    stem = {"biqwen2": "Qwen2VL", "biqwen2_5": "Qwen2_5_VL"}[family]
    plain = getattr(transformers, f"{stem}ForConditionalGeneration")
    random_model(plain, family).save_pretrained(tmp_path / "base")
    library = getattr(engine, CLASSES[family])
    with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
        registry.detect(tmp_path / "base")
    base = library.from_pretrained(tmp_path / "base", key_mapping=OLDER_NAMES, dtype=torch.float32)
    targets = page_models.TARGETS["colqwen2"]
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    page_models.vary(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    save_processor(family, tmp_path / "adapter")
    declaration = {"path": str(tmp_path / "adapter"), "base": {"path": str(tmp_path / "base")}}
    looked = checkpoints.look(declaration, tmp_path / "looked")
    assert registry.detect(looked).name == family
    folder = checkpoints.resolve(declaration, tmp_path / "assembled")
    export(folder, tmp_path / "out")
    encoder, reference = Encoder(tmp_path / "out"), registry.get(family).reference(folder, "cpu")
    check_equal(encoder.encode_queries(QUERIES), reference.encode_queries(QUERIES))
    features = reference.prepare_queries(QUERIES)
    with torch.inference_mode():
        expected = adapted(**features).numpy()[:, None]
    check_equal(encoder.encode_queries(QUERIES), list(expected))


@pytest.mark.parametrize("family", SINGLE)
def test_the_score_of_a_single_vector_is_a_cosine_and_says_so(family, encoders, capsys, tmp_path):
    _, encoder = encoders[family]
    queries = encoder.encode_queries(["a red chart", "a blue table"])
    pages = encoder.encode_documents([page_models.page(60, 90), page_models.page(90, 60)])
    assert {rows.shape for rows in (*queries, *pages)} == {(1, encoder.dim)}
    cosines = np.vstack(queries) @ np.vstack(pages).T
    assert np.allclose(encoder.score(queries, pages), cosines, atol=1e-6)
    inspection.inspect(encoder.folder)
    assert f"{family}, 64 dimensions in one vector, compared by cosine" in capsys.readouterr().out
    card = model_card.write(encoder.manifest, "someone/model", model_card.Measured())
    assert not [word for word in ("MaxSim", "a token", "late-interaction") if word in card]
    assert "an embedding of 64 dimensions in one vector" in card
    assert "- single-vector" in card
    for ask in (encoder._runtime.query_tokens, encoder._runtime.patches):
        with pytest.raises(UnsupportedError, match="one vector of a page has no patches"):
            ask(page_models.page(60, 90))
    record = explain_record("bi", _Pages, [encoder.folder], None, [])
    assert "one vector of a page" in record["reason"]
    assert record["figures"] == []


class _Pages:
    name = "pages"


def test_pooling_one_vector_is_no_form(encoders):
    rng = np.random.default_rng(0)
    queries, pages = (
        EmbeddingSet.from_arrays(ids, list(rng.standard_normal((3, 1, 8)).astype(np.float32)))
        for ids in (["a", "b", "c"], ["x", "y", "z"])
    )
    forms = [Form("pooled", pooling=2), Form("bits", storage="binary")]
    _, found = score_forms(queries, pages, {}, forms)
    assert found["pooled"] == "Every document has one vector; pooling merges several."
    assert found["bits"].bytes_per_document < 8


def test_a_single_vector_is_dense_to_mteb(encoders):
    mteb_adapter = pytest.importorskip("colport.measure.mteb_adapter", exc_type=UnsupportedError)
    meta = mteb_adapter.ColPortEncoder(encoders["biqwen2"][1].folder).mteb_model_meta
    assert (meta.similarity_fn_name, meta.model_type) == ("cosine", ["dense"])


def test_a_manifest_of_a_vector_a_token_says_maxsim(encoders):
    found = manifest.read(encoders["colqwen2_5"][1].folder)
    assert (found.score, found.vectors) == ("MaxSim", "128 dimensions a token")
