"""What a checkpoint is put together from, with two of everything: layers, digests, weights."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from colport.base.errors import ArtifactError, CheckpointError
from colport.families.tokens import Tokens
from colport.hub import checkpoints, downloads, lora

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.metadata", "README.md")


def whole(folder, **tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(tensors or {"b": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def adapter(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    tensors = {name: np.ones((2, 2), np.float32) for name in ("a", "b")}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def names(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))


def test_a_record_counts_the_weights_of_every_folder(tmp_path):
    folder = whole(tmp_path / "model", a=np.zeros((2, 3), np.float32), b=np.zeros(5, np.float32))
    whole(folder / "1_Dense", c=np.zeros((4, 2), np.float32))
    record = checkpoints.record({"path": str(folder)}, "colqwen2", tmp_path / "w")
    assert (record["folder"], record["family"]) == (str(folder), "colqwen2")
    assert list(record["weights"]) == ["1_Dense/model.safetensors", "model.safetensors"]
    assert record["parameters"] == 2 * 3 + 5 + 4 * 2


def test_what_is_laid_on_what_is_said(tmp_path):
    base = whole(tmp_path / "base")
    beside = adapter(whole(tmp_path / "beside"), r=4)
    bare = adapter(tmp_path / "bare", r=16)
    declared = {"path": str(bare), "base": {"path": str(base)}}
    assert checkpoints.record(declared, "colpali", tmp_path / "w")["applied"] == [
        "a LoRA of rank 16 (2 tensors) is added to the weights of its base."
    ]
    assert checkpoints.record({"path": str(beside)}, "colpali", tmp_path / "w")["applied"] == [
        "a LoRA of rank 4 (2 tensors) is added to the weights beside it, as in transformers; if it "
        "was merged into them, it counts twice: take adapter_config.json out of the folder."
    ]


def test_the_folders_behind_a_declaration(tmp_path, monkeypatch):
    base, overlay = whole(tmp_path / "base"), tmp_path / "overlay"
    overlay.mkdir()
    bare = adapter(tmp_path / "bare", base_model_name_or_path="../base")
    absent = {"path": str(tmp_path / "absent")}
    own = {"documents_folder": str(overlay)}
    declared = {"path": str(bare), "overlay": str(overlay)}
    assert checkpoints.places(absent) == []
    assert checkpoints.places(own) == [overlay]
    found = checkpoints.places(declared)
    assert [place.resolve() for place in found] == [bare, overlay, base]
    other = whole(tmp_path / "other")
    assert checkpoints.places(declared | {"base": {"path": str(other)}}) == [bare, overlay, other]
    assert checkpoints.places({"hub": "a/b", "revision": "main"}) == []
    monkeypatch.syspath_prepend(tmp_path / "installed")
    inside = tmp_path / "installed/outer/inner/model"
    inside.mkdir(parents=True)
    (tmp_path / "installed/outer/__init__.py").write_text("raise AssertionError('imported')")
    assert checkpoints.places({"package": "outer.inner", "folder": "model"}) == [inside]
    assert checkpoints.places({"package": "outer"}) == [tmp_path / "installed/outer"]
    assert checkpoints.places({"package": "no_such_package"}) == []
    assert "outer" not in sys.modules


@pytest.mark.parametrize("own", [(), ("tokenizer.json",), ("tokenizer_config.json",)])
def test_a_tokenizer_comes_whole_from_the_adapter_or_the_base(own, tmp_path):
    base, bare = whole(tmp_path / "base"), adapter(tmp_path / "adapter")
    shards = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "my_config.json"]
    for name in (*shards, *others):
        (base / name).write_text("of the base")
    for name in own:
        (bare / name).write_text("of the adapter")
    declared = {"path": str(bare), "base": {"path": str(base)}}
    found = names(checkpoints.resolve(declared, tmp_path / "w"))
    kept = ["adapter_config.json", "adapter_model.safetensors", "config.json", *shards]
    assert found == sorted([*kept, "model.safetensors", *(own or others)])


def test_weights_in_shards_are_weights_of_one_s_own(tmp_path):
    folder = adapter(tmp_path / "sharded", base_model_name_or_path="absent/base")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert checkpoints.resolve({"path": str(folder)}, tmp_path / "w") == folder


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_an_adapter_with_a_processor_is_none_on_text(name, tmp_path):
    bare = adapter(tmp_path / "adapter")
    (bare / "modules.json").write_text("[]")
    (bare / name).write_text("{}")
    declared = {"path": str(bare), "base": {"path": str(whole(tmp_path / "base"))}}
    assert name in names(checkpoints.resolve(declared, tmp_path / "w"))


@pytest.mark.parametrize(
    ("revision", "asked"), [(None, "main"), ("v1", "v1"), ("../x", None), (3, None)]
)
def test_what_an_adapter_from_the_hub_names_is_on_the_hub(revision, asked, tmp_path, monkeypatch):
    base = whole(tmp_path / "snapshots/base")
    config = {"base_model_name_or_path": "some/base", "revision": revision}
    folder, calls = adapter(tmp_path / "snapshots" / COMMIT, **config), []

    def fetch(*arguments):
        calls.append(arguments)
        return folder if arguments[0] == "me/lora" else base

    monkeypatch.chdir(tmp_path)
    whole(tmp_path / "some/base")  # a folder of that name is here, and not what was meant
    monkeypatch.setattr(downloads, "fetch", fetch)
    declared = {"hub": "me/lora", "revision": "v9"}
    if asked is None:
        with pytest.raises(CheckpointError, match=f"revision is {revision!r}; allowed is a commit"):
            checkpoints.resolve(declared, tmp_path / "w")
        return
    record = checkpoints.record(declared, "colpali", tmp_path / "w")
    assert calls[:2] == [("me/lora", "v9", PATTERNS), ("some/base", asked, PATTERNS)]
    assert record["source"] == f"me/lora@{COMMIT} on some/base@base"


def test_every_digest_is_checked(tmp_path):
    folder = whole(tmp_path / "model")
    (folder / "config.json").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    right = {"path": str(folder), "sha256": {"config.json": empty}}
    assert checkpoints.resolve(right, tmp_path / "w") == folder
    wrong = {"path": str(folder), "sha256": {"config.json": empty, "model.safetensors": empty}}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 is .*expected e3b0"):
        checkpoints.resolve(wrong, tmp_path / "w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json: cannot be read \(No such file or directory\)\."),
        ("{", r"config\.json: is not valid JSON \(.+\)\."),
        ("[1]", r"config\.json: holds list, expected a JSON object\."),
    ],
)
def test_a_config_that_is_none(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_config(tmp_path)


class PanicException(BaseException):  # as tokenizers names what its own code panics with
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\n lines"), "tokenizers cannot read it (two lines)."),
        (KeyError(), "tokenizers cannot read it (KeyError)."),
        (PanicException("index"), "tokenizers cannot read it (index)."),
    ],
)
def test_what_a_library_raises_is_one_sentence(error, said, tmp_path):
    with pytest.raises(CheckpointError) as caught, checkpoints.reading(tmp_path, "tokenizers"):
        raise error
    assert str(caught.value) == f"{tmp_path}: {said}"


def test_what_is_missing_for_anything_but_reading_is_said(tmp_path):
    for error in (MemoryError("no room"), ModuleNotFoundError("no room")):
        with (
            pytest.raises(CheckpointError, match=r"torch cannot trace it \(no room\)"),
            checkpoints.reading(tmp_path, "torch", "trace"),
        ):
            raise error


@pytest.mark.parametrize("name", ["config", "tokenizer_config", "processor_config"])
@pytest.mark.parametrize("code", ["own.Code", ["own.Code", "own.Fast"]])
def test_code_of_a_checkpoint_is_named(name, code, tmp_path):
    (tmp_path / f"{name}.json").write_text(json.dumps({"auto_map": {"AutoX": code}}))
    with (
        pytest.raises(CheckpointError, match=rf"/{name}\.json: auto_map names .*\(own\.Code\)"),
        checkpoints.reading(tmp_path, "transformers"),
    ):
        raise ValueError("contains custom code which must be executed")


OF_TRAINING = (
    *("auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode"),
    *("loftq_config", "lora_dropout", "lora_ga_config", "megatron_core"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"),
)
CHANGING = (
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
    "layer_replication",
)


def read(tmp_path, **config):
    file = adapter(tmp_path / "adapter", **config) / "adapter_config.json"
    return lora.read(file, json.loads(file.read_text()))


def test_settings_of_a_trained_adapter_reach_its_merge(tmp_path):
    settings = {
        **{"r": 4, "lora_alpha": 6, "rank_pattern": {"q": 2}, "alpha_pattern": {"k": 3}},
        **{"use_rslora": True, "target_modules": ["q", "k"], "exclude_modules": ["v"]},
        **{"layers_to_transform": [1], "layers_pattern": "layers", "modules_to_save": ["head"]},
        "ensure_weight_tying": True,
    }
    found, tensors = read(tmp_path, **settings, **dict.fromkeys(OF_TRAINING, "anything"))
    listed = ("target_modules", "exclude_modules")
    assert {
        key: sorted(getattr(found, key)) if key in listed else getattr(found, key)
        for key in settings
    } == settings | {key: sorted(settings[key]) for key in listed}
    assert set(tensors) == {"a", "b"}


@pytest.mark.parametrize("key", CHANGING)
def test_what_changes_a_base_otherwise_is_refused(key, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{key} is 'x'; only plain LoRA is merged"):
        read(tmp_path, **{key: "x"})
    read(tmp_path, **{key: False})


@pytest.mark.parametrize(
    "wrong",
    [{"lora_alpha": 0}, {"rank_pattern": {"q": 2, "k": 0}}, {"alpha_pattern": {"q": -1, "k": 2}}],
    ids=str,
)
def test_every_rank_and_alpha_is_above_0(wrong, tmp_path):
    with pytest.raises(CheckpointError, match=r"a rank or alpha is not above 0"):
        read(tmp_path, **wrong)
    read(tmp_path, r=1, lora_alpha=1, rank_pattern={"q": 1}, alpha_pattern={"q": 1})


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_a_trained_bias_is_refused(bias, tmp_path):
    with pytest.raises(CheckpointError, match=f"bias is '{bias}'; merged are none"):
        read(tmp_path, bias=bias)


def test_pickled_weights_beside_safetensors_do_not_matter(tmp_path):
    adapter(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.bin").write_bytes(b"pickled")
    assert set(read(tmp_path)[1]) == {"a", "b"}


def test_what_a_tokenizer_raises_or_panics_with_is_one_sentence(tmp_path):
    tokens = object.__new__(Tokens)
    tokens._file = tmp_path / "tokenizer.json"
    for error in (ValueError("no\nmore"), PanicException("no")):
        with (
            pytest.raises(ArtifactError, match=r"tokenizer.json: cannot encode \(no\)\.$"),
            tokens._own_errors("cannot encode"),
        ):
            raise error
    for error in (TypeError("no text"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, tokens._own_errors("cannot encode"):
            raise error
        assert caught.value is error
