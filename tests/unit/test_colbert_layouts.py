"""ColBERT checkpoints as PyLate, Stanford and sentence-transformers save them."""

import json
import os
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize
from transformers import AutoTokenizer

from colport import Encoder
from colport.base.errors import CheckpointError, InputError, UnsupportedError
from colport.export.folder import OPSET, export
from colport.families import registry
from colport.families.tokens import save_backend
from tests.conftest import ROOT
from tests.fixtures.stored import TEXTS, load_embeddings
from tests.text_models import dense, edit, make_checkpoint, rewrite

FIXTURES = ROOT / "tests" / "fixtures"
QUERIES, DOCUMENTS = TEXTS["queries"], TEXTS["documents"]
STORED = sorted(file.parent.name for file in FIXTURES.glob("*/embeddings.npz"))
# MultiVectorEncoder reads these as their own library does, but for the last text of each kind: one
# with marks and outer spaces in it. tests/fixtures/README.md tells where it reads the others anew.
READ_ALIKE = ["pylate-bert", "pylate-modernbert", "stanford-bert"]
UNATTENDED = {"strategy": "fixed", "attend": False, "length": 24}

# Without the Attention operator, whose softmax has zeros of its own where all keys are masked.
AS_PRODUCTS = ["modernbert-min", "llama-left"]
SAVED = {
    "bert-attended": {
        "kind": "bert",
        "config": {"num_hidden_layers": 1},
        "query_expansion": {**UNATTENDED, "attend": True},
        "document_length": 40,
        "prompts": {"query": "question: ", "document": "passage: "},
        "mask": {"skiplist_words": [".", ",", "the"], "skiplist_tasks": ["query", "document"]},
        "head": [
            dense(16, 24, bias=True, activation_function=torch.nn.Tanh()),
            Normalize("token_embeddings"),
            dense(24, 8, use_residual=True),
        ],
    },
    "modernbert-min": {
        "kind": "modernbert",
        "config": {"num_hidden_layers": 2},
        "query_expansion": {"strategy": "min", "attend": False, "length": 24},
        "query_length": 40,
        "document_length": 80,
        "mask": {"skiplist_words": ["no-such-word", "."]},
    },
    "modernbert-plain": {
        "kind": "modernbert",
        "config": {"num_hidden_layers": 2, "global_attn_every_n_layers": 2},
        "tokenizer": {"padding_side": "left"},
        "query_length": 30,
    },
    "roberta-lowercase": {
        "kind": "roberta",
        "config": {"num_hidden_layers": 1},
        "do_lower_case": True,
        "tokenizer": {"truncation_side": "left"},
        "query_expansion": {"strategy": "min", "attend": True, "length": 20},
        "document_length": 30,
        "head": [dense(16, 16, activation_function=torch.nn.GELU(), use_residual=True)],
    },
    "t5-position-bias": {"kind": "t5", "document_length": 40},
    "distilbert-no-limit": {
        "kind": "distilbert",
        "config": {"n_layers": 1},
        "head": [dense(16, 32, bias=True, activation_function=torch.nn.PReLU()), dense(32, 8)],
    },
    "llama-left": {
        "kind": "llama",
        "config": {"num_hidden_layers": 1},
        "tokenizer": {"padding_side": "left"},
        "query_expansion": UNATTENDED,
        "document_length": 50,
    },
    "llama-bidirectional": {
        "kind": "llama",
        "config": {"num_hidden_layers": 1, "is_causal": False},
        "tokenizer": {"padding_side": "left"},
        "query_expansion": {**UNATTENDED, "token": "<pad>"},
        "document_length": 50,
    },
    "qwen3-sliding": {
        "kind": "qwen3",
        "config": {
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        "prompts": {"query": "Q:", "document": "D:"},
        "query_expansion": UNATTENDED,
        "document_length": 60,
    },
}


def assert_equal(found, expected):
    assert [rows.shape for rows in found] == [rows.shape for rows in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def multi_vector(folder) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def encode(model, kind, batch_size):
    texts = QUERIES if kind == "query" else DOCUMENTS
    if isinstance(model, MultiVectorEncoder):
        call = model.encode_query if kind == "query" else model.encode_document
        return call(texts, batch_size=batch_size, convert_to_numpy=True)
    call = model.encode_queries if kind == "query" else model.encode_documents
    return call(texts, batch_size)


@pytest.fixture(scope="module")
def exported_fixtures(tmp_path_factory):
    root = tmp_path_factory.mktemp("colbert")
    for name in STORED:
        export(FIXTURES / name, root / name)
    return {name: Encoder(root / name) for name in STORED}


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", STORED)
def test_the_export_equals_what_the_own_library_computed(exported_fixtures, name, batch_size):
    for kind, stored in (("query", "queries"), ("document", "documents")):
        expected = load_embeddings(FIXTURES / name, stored)
        assert_equal(encode(exported_fixtures[name], kind, batch_size), expected)


@pytest.mark.parametrize("name", STORED)
def test_the_reference_equals_what_the_own_library_computed(name):
    reference = registry.get("colbert").reference(FIXTURES / name, "cpu")
    for kind, stored in (("query", "queries"), ("document", "documents")):
        assert_equal(encode(reference, kind, 4), load_embeddings(FIXTURES / name, stored))


@pytest.mark.parametrize("name", READ_ALIKE)
def test_the_export_equals_multi_vector_encoder(exported_fixtures, name):
    live = multi_vector(FIXTURES / name)
    for kind in ("query", "document"):
        found = encode(exported_fixtures[name], kind, 4)
        assert_equal(found[:-1], encode(live, kind, 1)[:-1])


@pytest.mark.parametrize("name", SAVED)
def test_what_sentence_transformers_saves(name, tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint", **SAVED[name])
    export(folder, tmp_path / "exported", opset=21 if name in AS_PRODUCTS else OPSET)
    live, encoder = multi_vector(folder), Encoder(tmp_path / "exported")
    for key, value in SAVED[name].get("tokenizer", {}).items():
        assert encoder.manifest.processing[key] == value
    for kind in ("query", "document"):
        expected = encode(live, kind, 2)
        for batch_size in (1, 4):
            assert_equal(encode(encoder, kind, batch_size), expected)


@pytest.mark.parametrize("name", ["pylate-bert", "stanford-roberta", "pylate-qwen3"])
@pytest.mark.parametrize("split", [False, True])
def test_texts_that_spell_special_tokens(name, split, exported_fixtures, tmp_path):
    folder = shutil.copytree(FIXTURES / name, tmp_path / "checkpoint")
    edit(folder / "tokenizer_config.json", split_special_tokens=split)
    family = registry.get("colbert")
    found = family.processing(folder)
    assert found.settings["split_special_tokens"] is split
    found.tokenizer.save(str(tmp_path / "tokenizer.json"))
    runtime, reference = family.runtime(found.settings, tmp_path), family.reference(folder, "cpu")
    texts = ["what is [MASK]", "<s> and </s> [SEP]", "<mask>, <|im_start|> or <|endoftext|>?"]
    for batch, prepared in (
        (runtime.query_batch(texts), reference.prepare_queries(texts)),
        (runtime.document_batch(texts), reference.prepare_documents(texts)),
    ):
        np.testing.assert_array_equal(batch.feeds["input_ids"], prepared[1]["input_ids"])


@pytest.mark.parametrize("name", ["pylate-bert", "stanford-roberta"])
def test_a_text_beyond_the_positions_is_named(name, exported_fixtures):
    folder = FIXTURES / name
    family = registry.get("colbert")
    settings = family.processing(folder).settings
    table = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    offset = 2 if "roberta" in name else 0
    assert settings["positions"] == table - offset
    settings["max_length"] = {"query": table + 40, "document": table + 40}
    settings["expansion"] = None
    runtime = family.runtime(settings, exported_fixtures[name].folder)
    fits = " ".join(["a"] * (settings["positions"] // 2))
    long = " ".join(["bridges"] * table)
    assert runtime.document_batch([fits]).keep.shape[1] <= settings["positions"]
    with pytest.raises(InputError, match=r"documents\[1\]: takes \d+ tokens, .* positions for"):
        runtime.document_batch([fits, long])
    with pytest.raises(InputError, match=r"queries\[0\]: takes"):
        runtime.query_batch([long])


class Otherwise:
    """A tokenizer with a setting of its own that its backend does not have."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text):
        return self._tokenizer(text.replace("ß", "ss"))


def test_a_tokenizer_that_does_more_than_its_file_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "pylate-bert")
    assert save_backend(tokenizer, FIXTURES).to_str()
    with pytest.raises(UnsupportedError, match="reads 'ÜNÏCÖDE Straße' otherwise than its token"):
        save_backend(Otherwise(tokenizer), FIXTURES)
    with pytest.raises(UnsupportedError, match="has no fast form"):
        save_backend(SimpleNamespace(), FIXTURES)


def as_dtype(folder, dtype):
    for file in (folder / "model.safetensors", folder / "1_Dense/model.safetensors"):
        rewrite(file, lambda tensors: {key: t.to(dtype) for key, t in tensors.items()})


def as_shards(folder):
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    places = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for name in set(places.values()):
        part = {key: tensor for key, tensor in tensors.items() if places[key] == name}
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()


def as_language_model(folder):
    """The names of a language model, its head tied to the token embeddings and stored again."""

    def change(tensors):
        renamed = {f"model.{key}": tensor for key, tensor in tensors.items()}
        return {**renamed, "lm_head.weight": tensors["embed_tokens.weight"].clone()}

    rewrite(folder / "model.safetensors", change)


SOURCES = {
    "bf16-shards": ("bert", lambda folder: (as_dtype(folder, torch.bfloat16), as_shards(folder))),
    "fp16": ("bert", lambda folder: as_dtype(folder, torch.float16)),
    "tied": ("qwen3", as_language_model),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_of_weights(source, tmp_path):
    kind, change = SOURCES[source]
    config = {"num_hidden_layers": 1, "tie_word_embeddings": source == "tied"}
    folder = make_checkpoint(tmp_path / "checkpoint", kind, config=config)
    change(folder)
    export(folder, tmp_path / "exported")
    live, encoder = multi_vector(folder), Encoder(tmp_path / "exported")
    texts = [text for text in DOCUMENTS if text]
    expected = live.encode_document(texts, convert_to_numpy=True)
    assert_equal(encoder.encode_documents(texts), expected)
    if source == "tied":  # a tokenizer without a start: PyTorch fails on an empty text alone
        assert [rows.shape for rows in encoder.encode_documents([""])] == [(0, 8)]


def module(folder, position, **changes):
    """Change an entry of ``modules.json``, or put one at the end."""
    file = folder / "modules.json"
    entries = json.loads(file.read_text())
    if position == len(entries):
        entries.append({"idx": position, "name": str(position), "path": f"{position}_More"})
    entries[position] |= changes
    file.write_text(json.dumps(entries))


def projection(change):
    return lambda folder: rewrite(folder / "1_Dense/model.safetensors", change)


def drop(tensors, key):
    tensors.pop(key)


def described(**changes):
    return lambda folder: edit(folder / "1_Dense/config.json", **changes)


def added(reference):
    return lambda folder: module(
        folder, len(json.loads((folder / "modules.json").read_text())), type=reference
    )


def as_bytes(tensors, end):
    name = next(key for key in tensors if key.endswith(end))
    return {name: tensors[name].to(torch.int8)}


WORDS = "embeddings.word_embeddings.weight"
LAST = {"method": "forward", "method_output_name": "last_hidden_state"}
PYLATE_REFUSALS = {
    "missing": (projection(lambda t: {"other": torch.zeros(1)}), "has weights"),
    "extra": (projection(lambda t: t.update({"linear.bias": torch.zeros(8)})), "linear.bias"),
    "shape": (
        projection(lambda t: t.update({"linear.weight": t["linear.weight"][:, :-1]})),
        r"1_Dense.*linear.weight. has shape \[8, 15\], .* needs \[8, 16\]",
    ),
    "activation": (described(activation_function="mine.Activation"), "is 'mine.Activation'"),
    "function": (described(activation_function="torch.nn.functional.gelu"), "functional.gelu"),
    "setting": (described(gate=True), "1_Dense/config.json: 'gate' is a setting"),
    "input": (described(module_input_name="sentence_embedding"), "module_input_name is 'sent"),
    "output": (described(module_output_name="other"), "module_output_name is 'other'"),
    "incomplete": (described(out_features=None), "does not describe a projection"),
    "outside": (lambda f: module(f, 1, path="../elsewhere"), "module 1 lies outside"),
    "layer-norm": (added("sentence_transformers.models.LayerNorm"), r"module 2 .*LayerNorm"),
    "foreign": (added("my_package.Dense"), r"module 2 .*my_package.Dense"),
    "second backbone": (
        added("sentence_transformers.base.modules.Transformer"),
        r"module 2 .*Transformer; exported there is Dense or Normalize or MultiVectorMask\.$",
    ),
    "backbone": (
        lambda f: module(f, 0, type="my_package.Transformer"),
        "module 0 .*exported there",
    ),
    "no-list": (lambda f: (f / "modules.json").write_text("{}"), "names no module"),
    "no-mask": (
        lambda f: edit(f / "tokenizer_config.json", model_input_names=["input_ids"]),
        r"tokenizer_config.json: model_input_names is \['input_ids'\]; attention_mask has to be",
    ),
    "one-vector": (
        lambda f: edit(
            f / "config_sentence_transformers.json",
            model_type="SentenceTransformer",
            query_prefix=None,
            document_prefix=None,
        ),
        "model_type is 'SentenceTransformer', which gives one vector",
    ),
    "marker": (
        lambda f: edit(f / "config_sentence_transformers.json", query_prefix="[Query] "),
        r"query_prefix '\[Query\] ' is not a token",
    ),
    "left": (
        lambda f: edit(f / "tokenizer_config.json", padding_side="left"),
        "padding on the left",
    ),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json"),
    "integers": (
        lambda f: rewrite(f / "model.safetensors", lambda t: t.update(as_bytes(t, "dense.weight"))),
        r"dense.weight' is int8; exported are weights in fp32, fp16 or bf16",
    ),
    "quantized": (
        lambda f: (
            edit(f / "config.json", quantization_config={"quant_method": "gptq"}),
            rewrite(f / "model.safetensors", lambda t: t.update(as_bytes(t, "dense.weight"))),
        ),
        r"config.json: quantization_config is 'gptq', and tensor '.*dense.weight' is int8",
    ),
    "token": (
        lambda f: (
            edit(f / "config.json", vocab_size=292),
            rewrite(f / "model.safetensors", lambda t: t.update({WORDS: t[WORDS][:-1]})),
        ),
        r"has 1 tokens beyond the 292 rows of the word embeddings, first '.*' \(292\)",
    ),
    "backbone-extra": (
        lambda f: rewrite(f / "model.safetensors", lambda t: t.update(linear=torch.zeros(1))),
        "1 unexpected weights, first 'linear'",
    ),
    "backbone-missing": (
        lambda f: rewrite(
            f / "model.safetensors", lambda t: drop(t, "embeddings.word_embeddings.weight")
        ),
        "1 missing weights",
    ),
}
STANFORD_REFUSALS = {
    "architecture": (lambda f: edit(f / "config.json", architectures=["BertModel"]), "HF_ColBERT"),
    "dim": (lambda f: edit(f / "artifact.metadata", dim=None), r"needs \[128, 16\]"),
    "missing": (
        lambda f: rewrite(f / "model.safetensors", lambda t: drop(t, "linear.weight")),
        r"has weights \[\], needs",
    ),
    "shape": (lambda f: edit(f / "artifact.metadata", dim=16), r"has shape \[8, 16\]"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pickled weights are not read",
    ),
}
SAVED_REFUSALS = {
    "pooling": (
        added("sentence_transformers.multi_vector_encoder.modules.HierarchicalTokenPooling"),
        "module 4 .*HierarchicalTokenPooling",
    ),
    "no-end": (
        lambda f: (f / "modules.json").write_text(
            json.dumps(json.loads((f / "modules.json").read_text())[:-1])
        ),
        "does not end in Normalize",
    ),
    "no-mask": (
        lambda f: module(
            f, 2, type="sentence_transformers.base.modules.Normalize", path="3_Normalize"
        ),
        "modules.json: has 0 MultiVectorMask",
    ),
    "kept-ids": (
        lambda f: edit(f / "2_MultiVectorMask/config.json", keep_only_token_ids=[3]),
        "keep_only_token_ids",
    ),
    "other-norm": (
        lambda f: edit(f / "3_Normalize/config.json", module_input_name="sentence_embedding"),
        "3_Normalize/config.json: module_input_name",
    ),
    "chat": (
        lambda f: edit(
            f / "sentence_bert_config.json",
            modality_config={"text": LAST, "message": {**LAST, "format": "flat"}},
        ),
        "chat template",
    ),
    "layer": (
        lambda f: edit(
            f / "sentence_bert_config.json",
            modality_config={"text": {**LAST, "method_output_name": "pooler_output"}},
        ),
        "not its last hidden state",
    ),
    "processing": (
        lambda f: edit(
            f / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 5}}
        ),
        "processing_kwargs",
    ),
    "expansion": (
        lambda f: edit(
            f / "sentence_bert_config.json", query_expansion={"strategy": "max", "length": 5}
        ),
        "sentence-transformers cannot read it .*strategy",
    ),
}


@pytest.mark.parametrize("place", ["0_Transformer", "models/backbone"])
def test_a_backbone_in_a_folder_of_its_own(place, saved_bert, tmp_path):
    folder = shutil.copytree(saved_bert, tmp_path / "checkpoint")
    (folder / place).mkdir(parents=True)
    for file in [file for file in folder.iterdir() if file.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder / place / file.name)
    module(folder, 0, path=place)
    assert registry.require("colbert", folder) is registry.detect(folder)
    export(folder, tmp_path / "exported")
    encoder, live = Encoder(tmp_path / "exported"), multi_vector(folder)
    assert_equal(encode(encoder, "document", 4), encode(live, "document", 2))
    reference = registry.get("colbert").reference(folder, "cpu")
    assert_equal(encode(reference, "document", 4), encode(live, "document", 2))
    (folder / place / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=rf"{place}/adapter_config.json: adapters on a text"):
        export(folder, tmp_path / "again")
    edit(folder / place / "config.json", vision_config={})
    with pytest.raises(UnsupportedError, match=rf"{place}/config.json: is of a model that sees"):
        export(folder, tmp_path / "again")


def test_a_quantization_that_the_weights_do_not_have(saved_bert, tmp_path):
    folder = shutil.copytree(saved_bert, tmp_path / "checkpoint")
    quantized = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    edit(folder / "config.json", quantization_config=quantized)
    export(folder, tmp_path / "exported")
    reference = registry.get("colbert").reference(folder, "cpu")
    expected = encode(multi_vector(saved_bert), "query", 2)
    assert_equal(encode(Encoder(tmp_path / "exported"), "query", 4), expected)
    assert_equal(encode(reference, "query", 4), expected)


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("bert") / "checkpoint", "bert")


def assert_refused(source, change, message, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(source, folder)
    change(folder)
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        export(folder, tmp_path / "exported", family="colbert")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("case", PYLATE_REFUSALS)
def test_refused_in_pylate_s_layout(case, tmp_path):
    assert_refused(FIXTURES / "pylate-bert", *PYLATE_REFUSALS[case], tmp_path)


@pytest.mark.parametrize("case", STANFORD_REFUSALS)
def test_refused_in_stanford_s_layout(case, tmp_path):
    assert_refused(FIXTURES / "stanford-bert", *STANFORD_REFUSALS[case], tmp_path)


@pytest.mark.parametrize("case", SAVED_REFUSALS)
def test_refused_in_sentence_transformers_layout(case, saved_bert, tmp_path):
    assert_refused(saved_bert, *SAVED_REFUSALS[case], tmp_path)


def test_the_reference_makes_no_weights_up(tmp_path):
    folder = shutil.copytree(FIXTURES / "stanford-bert", tmp_path / "checkpoint")
    key = "bert.embeddings.word_embeddings.weight"
    rewrite(folder / "model.safetensors", lambda tensors: drop(tensors, key))
    with pytest.raises(CheckpointError, match="1 missing weights, first 'embeddings"):
        registry.get("colbert").reference(folder, "cpu")


class Malice:
    """Unpickling it makes a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickled_module_is_refused_and_never_opened(tmp_path):
    mark = tmp_path / "executed"

    def pickled(folder):
        (folder / "1_Dense/model.safetensors").unlink()
        (folder / "1_Dense/pytorch_model.bin").write_bytes(pickle.dumps(Malice(mark)))

    message = "1_Dense/pytorch_model.bin: pickled weights are not read"
    assert_refused(FIXTURES / "pylate-bert", pickled, message, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        registry.get("colbert").reference(tmp_path / "checkpoint", "cpu")
    assert not mark.exists()
