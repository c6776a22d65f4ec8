"""Backbones that cannot be built or read end in one sentence, whatever a library raises."""

import pytest
import transformers

from colport.base.errors import CheckpointError, UnsupportedError
from colport.export.folder import export
from colport.families import registry
from colport.families.reference.skeletons import build_on_meta, rename_keys
from tests.page_models import demo

SMALL = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_backbone_that_cannot_be_built_is_named():
    message = r"^backbone falcon: FalconModel cannot be built for an export \(KeyError: 'colport'\)"
    with pytest.raises(CheckpointError, match=message):
        build_on_meta(transformers.FalconModel, transformers.FalconConfig(**SMALL), "fp32")


def test_a_backbone_whose_weights_are_stored_in_another_form_is_named():
    config = transformers.NomicBertConfig(**SMALL, intermediate_size=32)
    model, _ = build_on_meta(transformers.NomicBertModel, config, "fp32")
    joint = "encoder.layers.0.attn.Wqkv.weight"
    message = rf"^backbone nomic_bert: weight '{joint}' is stored in another form"
    with pytest.raises(UnsupportedError, match=message):
        rename_keys(model, [joint])


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
