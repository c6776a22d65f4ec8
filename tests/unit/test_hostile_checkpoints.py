"""Checkpoints that bring code along: nothing of it is executed, whatever a library would do."""

import builtins
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from colport.base.errors import CheckpointError
from colport.export.folder import export
from colport.families import registry
from colport.hub import checkpoints
from tests.page_models import demo
from tests.text_models import edit, make_checkpoint

PICKLES = (
    *("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "model.pt"),
    *("rng_state.pth", "vocab.pkl", "1_Dense/pytorch_model.bin", "1_Pooling/pytorch_model.bin"),
    *("2_MultiVectorMask/pytorch_model.bin", "tokenizer.bin", "checkpoint.pth.tar"),
)
SCRIPTS = ("modeling_evil.py", "tokenization_evil.py", "processing_evil.py", "__init__.py")
AUTO_MAP = {
    "AutoConfig": "modeling_evil.Config",
    "AutoModel": "modeling_evil.Model",
    "AutoTokenizer": ["tokenization_evil.Slow", "tokenization_evil.Fast"],
    "AutoProcessor": "processing_evil.Processor",
    "AutoImageProcessor": "processing_evil.Images",
}


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def infested(folder, mark):
    """Put a pickle wherever a library may look for one, and code where it may import some."""
    for name in PICKLES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(Malice(mark)))
    objects = np.array([Malice(mark)], dtype=object)
    np.save(folder / "embeddings.npy", objects, allow_pickle=True)
    for name in SCRIPTS:
        (folder / name).write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    return folder


@pytest.fixture(scope="module")
def text_checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("text") / "model", "bert")


@pytest.fixture(autouse=True)
def _yes_to_everything(monkeypatch):
    """Someone at the keyboard who agrees to whatever is asked; nothing may ask."""
    asked = []

    def answer(prompt=""):
        asked.append(prompt)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    yield
    assert asked == []


def test_pickles_and_scripts_beside_the_weights_are_left_alone(text_checkpoint, tmp_path):
    mark = tmp_path / "executed"
    folder = infested(shutil.copytree(text_checkpoint, tmp_path / "model"), mark)
    resolved = checkpoints.resolve(
        {"path": str(text_checkpoint), "overlay": str(folder)}, tmp_path / "overlaid"
    )
    assert (resolved / "pytorch_model.bin").is_symlink()
    written = export(resolved, tmp_path / "exported")
    registry.detect(resolved).reference(resolved, "cpu").encode_queries(["a question"])
    assert not mark.exists()
    assert set(written.files) == {"text.onnx", "tokenizer.json", "weights.onnx_data"}


@pytest.mark.parametrize("name", ["model.safetensors", "1_Dense/model.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_refused(name, text_checkpoint, tmp_path):
    mark = tmp_path / "executed"
    folder = infested(shutil.copytree(text_checkpoint, tmp_path / "model"), mark)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: pickled weights are not read"):
        export(folder, tmp_path / "exported")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: pickled weights are not read"):
        registry.detect(folder).reference(folder, "cpu")
    assert not mark.exists()


def test_an_index_may_not_lead_to_a_pickle(text_checkpoint, tmp_path):
    mark = tmp_path / "executed"
    folder = infested(shutil.copytree(text_checkpoint, tmp_path / "model"), mark)
    index = {"weight_map": {"embeddings.word_embeddings.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for use in (lambda: export(folder, tmp_path / "out"), lambda: reference(folder)):
        with pytest.raises(CheckpointError, match=r"'pytorch_model.bin' is no safetensors file"):
            use()
    assert not mark.exists()


def reference(folder):
    return registry.detect(folder).reference(folder, "cpu")


def test_code_of_a_text_checkpoint_is_refused_by_name(text_checkpoint, tmp_path):
    mark = tmp_path / "executed"
    folder = infested(shutil.copytree(text_checkpoint, tmp_path / "model"), mark)
    edit(folder / "config.json", auto_map=AUTO_MAP, model_type="evil")
    edit(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="Evil")
    message = r"config.json: auto_map names code of the checkpoint \(modeling_evil.Config\), which"
    for use in (lambda: export(folder, tmp_path / "out"), lambda: reference(folder)):
        with pytest.raises(CheckpointError, match=message):
            use()
    assert not mark.exists()


@pytest.mark.parametrize("family", ["colpali", "colqwen2"])
def test_code_of_a_page_checkpoint_s_processor_is_not_executed(family, tmp_path):
    mark = tmp_path / "executed"
    folder = infested(shutil.copytree(demo(family), tmp_path / "model"), mark)
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        edit(folder / name, auto_map=AUTO_MAP)
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil")
    if family == "colqwen2":  # transformers goes by the model's type, and leaves the rest alone
        registry.get(family).processing(folder)
    else:
        with pytest.raises(CheckpointError, match="auto_map names code of the checkpoint"):
            registry.get(family).processing(folder)
    assert not mark.exists()


def bomb(levels=25):
    """YAML of a few lines that stands for a list of two to the power of ``levels``."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines), f"*a{levels - 1}"


def test_a_card_cannot_grow_into_the_record(tmp_path):
    lines, alias = bomb()
    card = f"---\n{lines}\nlicense: {alias}\nlicense_name: mine\n---\n"
    (tmp_path / "README.md").write_text(card)
    assert checkpoints.license_of(tmp_path) == {"license": {"license_name": "mine"}}
    (tmp_path / "README.md").write_text(f"---\nlicense: {'[' * 5000}\n---\n")
    assert checkpoints.license_of(tmp_path) == {}


@pytest.mark.parametrize(
    "content", ["[" * 100_000 + "]" * 100_000, '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000 + "}"]
)
def test_configuration_that_would_break_its_reader(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json: is not valid JSON"):
        checkpoints.read_config(tmp_path)


def test_configuration_of_an_absurd_size(tmp_path):
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(2**40)  # a hole, which takes no room
    with pytest.raises(CheckpointError, match=r"it has 1099511627776 bytes, more than"):
        checkpoints.read_config(tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("named", ["{base}", "../../../../base", "~", "~nobody/base", "base"])
def test_an_adapter_from_the_hub_does_not_choose_a_folder_of_this_machine(
    named, tmp_path, monkeypatch
):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model.safetensors").touch()
    folder = tmp_path / "cache/models--me--lora/snapshots" / COMMIT
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": named.format(base=tmp_path / "base")}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    declared = {"hub": "me/lora", "revision": COMMIT}
    with pytest.raises(CheckpointError, match=r"which is no Hub id; say where the base is"):
        checkpoints.resolve(declared, tmp_path / "w")


@pytest.mark.parametrize("revision", ["../../refs/main", "/etc/hostname", 7, ["main"], "a b"])
def test_an_adapter_names_a_revision_of_its_base(revision, tmp_path):
    config = {"base_model_name_or_path": "me/base", "revision": revision}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"revision is .* allowed is a commit"):
        checkpoints.resolve({"path": str(tmp_path)}, tmp_path / "w")
