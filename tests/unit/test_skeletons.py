"""Backbones that cannot be built or read end in one sentence, whatever a library raises."""

import pytest
import transformers
from transformers.core_model_loading import Chunk, Concatenate, Transpose, WeightConverter

from colport.base.errors import CheckpointError, UnsupportedError
from colport.export.folder import export
from colport.families import registry
from colport.families.reference.skeletons import _of_rows, build_on_meta, rename_keys
from tests.page_models import demo

SMALL = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_backbone_that_cannot_be_built_is_named():
    message = r"^backbone falcon: FalconModel cannot be built for an export \(KeyError: 'colport'\)"
    with pytest.raises(CheckpointError, match=message):
        build_on_meta(transformers.FalconModel, transformers.FalconConfig(**SMALL), "fp32")


def test_a_backbone_whose_weights_are_stored_in_another_form_is_named():
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=32, num_key_value_heads=1, num_local_experts=2
    )
    model, _ = build_on_meta(transformers.MixtralModel, config, "fp32")
    expert = "layers.0.block_sparse_moe.experts.0.w1.weight"
    message = rf"^backbone mixtral: weight '{expert}' is stored in another form"
    with pytest.raises(UnsupportedError, match=message):
        rename_keys(model, [expert])


def test_query_key_and_value_in_one_tensor_share_its_key_in_their_order():
    config = transformers.NomicBertConfig(**SMALL, intermediate_size=32)
    model, _ = build_on_meta(transformers.NomicBertModel, config, "fp32")
    joint = "encoder.layers.0.attn.Wqkv.weight"
    names = [f"layers.0.self_attn.{letter}_proj.weight" for letter in "qkv"]
    assert list(rename_keys(model, [joint]).items()) == [(name, joint) for name in names]


@pytest.mark.parametrize(
    "operations",
    [[Chunk(dim=1)], [Chunk(dim=0), Transpose()], [Concatenate(dim=0)], [Chunk(0, "heads")]],
)
def test_a_conversion_that_is_more_than_parts_of_rows_has_none(operations):
    rule = WeightConverter("qkv", ["q"], [Chunk(dim=0)])
    assert _of_rows("layer.q.weight", "qkv", [rule]) == ["layer.q.weight"]
    rule.operations = operations
    assert _of_rows("layer.q.weight", "qkv", [rule]) == []


@pytest.mark.parametrize("error", [AttributeError, ImportError])  # as of flash-attn by a library
@pytest.mark.parametrize("method", ["skeleton", "processing", "open_reference"])
def test_whatever_a_family_raises_is_a_sentence(method, error, tmp_path, monkeypatch):
    family, folder = registry.get("colpali"), demo("colpali")

    def fail(*_):
        raise error("no such\nthing")

    monkeypatch.setattr(type(family), method, fail)
    with pytest.raises(CheckpointError, match="colpali-demo: family colpali cannot read it") as it:
        family.reference(folder, "cpu") if method == "open_reference" else export(folder, tmp_path)
    assert str(it.value).endswith("(no such thing).")


@pytest.mark.parametrize("lacking", [MemoryError, ModuleNotFoundError])
def test_what_the_machine_lacks_is_no_fault_of_the_checkpoint(lacking, monkeypatch):
    family = registry.get("colpali")

    def fail(*_):
        raise lacking

    monkeypatch.setattr(type(family), "open_reference", fail)
    with pytest.raises(lacking):
        family.reference(demo("colpali"), "cpu")
