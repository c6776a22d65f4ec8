"""LoRA adapters: merged as peft merges them, refused where they are more than that."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from colport import Encoder
from colport.base.errors import CheckpointError
from colport.cli import options
from colport.export.folder import export
from colport.families import registry
from colport.families.adapters import MergedTensor
from colport.hub import checkpoints
from colport.tensors.weights import read_header
from tests import page_models
from tests.text_models import edit

FAMILIES = ["colpali", "colqwen2"]
ENGINE = "colpali-engine"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A colpali-engine checkpoint of each family, in bf16 shards as on the Hub."""
    root = tmp_path_factory.mktemp("bases")
    return {
        family: page_models.save(
            family, ENGINE, root / family, dtype=torch.bfloat16, max_shard_size="200KB"
        )
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """A plain LoRA adapter on each base."""
    root = tmp_path_factory.mktemp("adapters")
    return {f: page_models.save_adapter(f, base, root / f) for f, base in bases.items()}


def resolved(adapter, workspace):
    return checkpoints.resolve({"path": str(adapter)}, workspace)


def sources(family, folder):
    return registry.get(family).skeleton(folder, "fp32").tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_adapter_equals_the_library(family, bases, adapters, tmp_path):
    folder = resolved(adapters[family], tmp_path / "assembled")
    export(folder, tmp_path / "exported")
    encoder = Encoder(tmp_path / "exported")
    reference = registry.get(family).reference(folder, "cpu")
    queries = ["a red pie chart", "", "a longer query about the second table of the page"]
    pages = [page_models.page(*size) for size in ((168, 168), (90, 310), (400, 90))]
    for found, expected in (
        (encoder.encode_queries(queries), reference.encode_queries(queries)),
        (encoder.encode_documents(pages), reference.encode_documents(pages)),
    ):
        assert page_models.largest_difference(found, expected) < 1e-5
    plain = registry.get(family).reference(bases[family], "cpu").encode_queries(queries)
    assert page_models.largest_difference(encoder.encode_queries(queries), plain) > 0.05


VARIANTS = {
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.\w+": 6},
        "alpha_pattern": {"custom_text_proj": 32},
    },
    "names": {"target_modules": ["up_proj", "custom_text_proj"], "init_lora_weights": True},
    "one layer": {"target_modules": ["up_proj", "gate_proj"], "layers_to_transform": [1]},
    "saved": {"modules_to_save": ["custom_text_proj"], "target_modules": ["o_proj"]},
    "saved by ending": {"modules_to_save": ["text_proj"], "target_modules": ["fc1"]},
    "norms": {"modules_to_save": ["norm"], "target_modules": ["o_proj"]},
    "eva": {"init_lora_weights": "eva", "target_modules": ["custom_text_proj"]},
    "orthogonal": {"init_lora_weights": "orthogonal", "target_modules": ["custom_text_proj"]},
    "mica": {"init_lora_weights": "mica", "target_modules": ["custom_text_proj"]},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_equal_those_that_peft_merges(family, variant, bases, tmp_path):
    from peft import PeftModel

    adapter = page_models.save_adapter(
        family, bases[family], tmp_path / "adapter", **VARIANTS[variant]
    )
    found = sources(family, resolved(adapter, tmp_path / "assembled"))
    library = page_models.model_class(family, ENGINE)
    base = library.from_pretrained(bases[family], dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    changed = 0
    for name, entry in found.items():
        value = entry.read().astype(np.float32)
        np.testing.assert_allclose(value, expected[name].numpy(), atol=2e-6, err_msg=name)
        changed += isinstance(entry, MergedTensor) or entry.file.name == WEIGHTS
    written = {key.split(".lora_")[0] for key in load_file(adapter / WEIGHTS)}
    assert changed == len([key for key in written if "lm_head" not in key]) > 0
    replaced = [entry for entry in found.values() if getattr(entry, "replaces", None)]
    assert all(entry.file.name == WEIGHTS != entry.replaces.file.name for entry in replaced)
    assert len(replaced) == sum(
        ".lora_" not in key and "lm_head" not in key for key in load_file(adapter / WEIGHTS)
    )


def rewrite(folder, change):
    """Apply ``change`` to an adapter's tensors."""
    file = folder / WEIGHTS
    values = change(load_file(file))
    save_file({key: value.contiguous() for key, value in values.items()}, file, {"format": "pt"})


OLD_NAMES = {  # as the published adapters store them
    "colpali": (".model.model.language_model.", ".model.language_model.model."),
    "colqwen2": ("base_model.model.language_model.", "base_model.model.model."),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_older_releases_are_read(family, adapters, tmp_path):
    adapter = shutil.copytree(adapters[family], tmp_path / "adapter")
    new, old = OLD_NAMES[family]
    rewrite(adapter, lambda t: {key.replace(new, old): value for key, value in t.items()})
    assert any(old in key for key in load_file(adapter / WEIGHTS))
    found = sources(family, resolved(adapter, tmp_path / "old"))
    expected = sources(family, resolved(adapters[family], tmp_path / "new"))
    for name, entry in expected.items():
        np.testing.assert_array_equal(found[name].read(), entry.read(), err_msg=name)


def test_an_adapter_on_a_transformers_checkpoint(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = page_models.save("colqwen2", "transformers", tmp_path / "base")
    library = page_models.model_class("colqwen2", "transformers")
    names = ["q_proj", "embedding_proj_layer"]
    adapted = get_peft_model(
        library.from_pretrained(base), LoraConfig(target_modules=names, init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    found = sources("colqwen2", resolved(tmp_path / "adapter", tmp_path / "assembled"))
    expected = adapted.merge_and_unload().state_dict()
    assert sum(isinstance(entry, MergedTensor) for entry in found.values()) == 3
    for name, entry in found.items():
        np.testing.assert_allclose(entry.read(), expected[name].numpy(), atol=2e-6, err_msg=name)


def test_rows_are_merged_without_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    parts = {"w": (6000, 2000), "a": (16, 2000), "b": (6000, 16)}
    values = {key: torch.from_numpy(rng.standard_normal(s, np.float32)) for key, s in parts.items()}
    save_file({**values, "w": values["w"].bfloat16()}, tmp_path / "x.safetensors")
    stored = read_header(tmp_path / "x.safetensors")
    merged = MergedTensor.of(stored["w"], stored["a"], stored["b"], 0.5)
    assert (merged.nbytes, merged.dtype, merged.shape) == (48_000_000, np.float32, (6000, 2000))
    expected = values["w"].bfloat16().float() + 0.5 * values["b"] @ values["a"]
    tracemalloc.start()
    rows = merged.read_rows(4321, 4721)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(rows, expected[4321:4721], atol=1e-5)
    assert peak < 4 * rows.nbytes < merged.nbytes / 3
    np.testing.assert_allclose(merged.read(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "IA3", "peft_type is 'IA3'; merged are LORA"),
        ("bias", "all", "bias is 'all'; merged are none"),
        *(
            ("init_lora_weights", name, f"init_lora_weights is '{name}'; read are true, false, ga")
            for name in ("pissa", "pissa_niter_4", "OLoRA", "corda", "loftq", "lora_ga", "new")
        ),
        ("use_dora", True, "use_dora is True; only plain LoRA"),
        ("fan_in_fan_out", True, "fan_in_fan_out is True"),
        ("lora_bias", True, "lora_bias is True"),
        ("layer_replication", [[0, 2]], "layer_replication"),
        ("target_parameters", ["w"], "target_parameters"),
        ("trainable_token_indices", [3], "trainable_token_indices"),
        ("a_setting_of_tomorrow", "on", "a_setting_of_tomorrow is 'on'"),
        ("r", 5, r"has shape \[4, 64\], parameter 'custom_text_proj.lora_A' needs \[5, 64\]"),
        ("r", "four", "is not a LoRA configuration"),
        ("lora_alpha", 0, "a rank or alpha is not above 0"),
        ("target_modules", ["embed_tokens"], "takes 'language_model.embed_tokens', a Embedding"),
        ("modules_to_save", ["attn"], r"by the ends of names, takes '[\w.]*self_attn', and so"),
        ("target_modules", ["k_proj"], "26 unexpected weights, first 'custom_text_proj.lora_A"),
    ],
)
def test_more_than_plain_lora_is_refused(key, value, message, adapters, tmp_path):
    adapter = shutil.copytree(adapters["colqwen2"], tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=rf"adapter_(config|model).*{message}"):
        sources("colqwen2", resolved(adapter, tmp_path / "assembled"))


def test_a_layer_that_the_model_lacks(adapters, tmp_path):
    adapter = shutil.copytree(adapters["colqwen2"], tmp_path / "adapter")
    edit(adapter / "adapter_config.json", target_modules=["no_such_layer"])
    with pytest.raises(CheckpointError, match=r"peft cannot read it .*no_such_layer.* not found"):
        sources("colqwen2", resolved(adapter, tmp_path / "assembled"))


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "Gaussian", "eva", "mica"])
def test_how_training_began_changes_nothing(start, adapters, tmp_path):
    adapter = shutil.copytree(adapters["colqwen2"], tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": start}))
    found = sources("colqwen2", resolved(adapter, tmp_path / "assembled"))
    merged = [entry for entry in found.values() if isinstance(entry, MergedTensor)]
    assert {entry.scale for entry in merged} == {2.0}
    assert len(merged) == 15


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_in_its_adapter_s_folder_gets_it_again_and_says_so(
    family, bases, adapters, tmp_path
):
    folder = shutil.copytree(adapters[family], tmp_path / "both")
    shutil.copytree(bases[family], folder, dirs_exist_ok=True)
    record = checkpoints.record({"path": str(folder)}, family, tmp_path / "w")
    assert len(record["applied"]) == 1
    assert "is added to the weights beside it, as in transformers" in record["applied"][0]
    assert "take adapter_config.json out of the folder" in record["applied"][0]
    said = []
    options.resolved(str(folder), None, tmp_path / "w", quiet=True, report=said.append)
    assert said == [f"checkpoint {folder}", *record["applied"]]  # by every command that reads one
    found = sources(family, folder)
    expected = sources(family, resolved(adapters[family], tmp_path / "assembled"))
    name = next(name for name, entry in expected.items() if isinstance(entry, MergedTensor))
    np.testing.assert_array_equal(found[name].read(), expected[name].read())


Q0 = "base_model.model.language_model.layers.0.self_attn.q_proj"
SOME = f"{Q0}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != SOME}, "1 missing weights, first .*lora_B"),
        (
            lambda t: {k: v for k, v in t.items() if not k.startswith(Q0)},
            "2 missing weights, first 'language_model.layers.0.self_attn.q_proj.lora_A.weight'",
        ),
        (lambda t: t | {f"{Q0}.lora_magnitude_vector": torch.ones(4)}, "1 unexpected weights"),
        (
            lambda t: t | {"base_model.model.language_model.norm.weight": torch.ones(64)},
            "1 unexpected weights, first 'language_model.norm.weight'; target_modules and",
        ),
        (lambda t: t | {"visual.merger.weight": torch.ones(4)}, "does not start with 'base_model"),
        (lambda t: t | {SOME: t[SOME][:-1]}, r"q_proj.lora_B.weight' has shape \[63, 4\]"),
    ],
)
def test_other_tensors_are_refused(change, message, adapters, tmp_path):
    adapter = shutil.copytree(adapters["colqwen2"], tmp_path / "adapter")
    rewrite(adapter, change)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: .*{message}"):
        sources("colqwen2", resolved(adapter, tmp_path / "assembled"))


def test_nan_in_an_adapter_is_refused_where_it_is_read(adapters, tmp_path):
    adapter = shutil.copytree(adapters["colqwen2"], tmp_path / "adapter")
    rewrite(adapter, lambda t: t | {SOME: t[SOME].fill_(float("nan"))})
    entry = sources("colqwen2", resolved(adapter, tmp_path / "assembled"))[
        f"{Q0.removeprefix('base_model.model.')}.weight"
    ]
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: tensor '{SOME}' holds NaN"):
        entry.read_rows(0, 8)


def test_the_base_must_be_of_the_adapter_s_model(bases, adapters, tmp_path):
    declared = {"path": str(adapters["colpali"]), "base": {"path": str(bases["colqwen2"])}}
    folder = checkpoints.resolve(declared, tmp_path / "assembled")
    with pytest.raises(CheckpointError, match="is declared as family 'colpali' but is 'colqwen2'"):
        export(folder, tmp_path / "exported", family="colpali")
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: .* unexpected weights, .* of ColQwen2"):
        export(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_base_in_a_wider_layout_is_refused(bases, adapters, tmp_path):
    base = shutil.copytree(bases["colpali"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "architectures": ["PaliGemma"]}))
    folder = checkpoints.resolve(
        {"path": str(adapters["colpali"]), "base": {"path": str(base)}}, tmp_path / "assembled"
    )
    with pytest.raises(CheckpointError, match="no family reads this checkpoint"):
        export(folder, tmp_path / "exported")


def test_wrong_adapters_leave_nothing_and_a_right_one_is_read(adapters, tmp_path):
    adapter = shutil.copytree(adapters["colpali"], tmp_path / "adapter")
    weights = adapter / WEIGHTS
    whole = weights.read_bytes()

    def fails(message):
        with pytest.raises(CheckpointError, match=message):
            export(resolved(adapter, tmp_path / "assembled"), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]

    weights.write_bytes(whole[:-100])
    fails(rf"{WEIGHTS}: is truncated")
    weights.rename(adapter / "adapter_model.bin")
    fails(r"adapter_model\.bin: is pickled; convert it to safetensors")
    (adapter / "adapter_model.bin").unlink()
    fails(rf"{WEIGHTS}: cannot be read")
    weights.write_bytes(whole)
    found = registry.get("colpali").reference(resolved(adapter, tmp_path / "assembled"), "cpu")
    assert found.encode_queries(["a"])[0].shape == (12, 128)
