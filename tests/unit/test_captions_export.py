"""Captioners as an image graph and one decoder graph: what their own library computes."""

import functools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from colport.base.errors import CheckpointError, InputError, ParityError, UnsupportedError
from colport.export.folder import _graph, export
from colport.families import registry
from colport.folder import manifest
from colport.pipeline import proof
from colport.tensors import external_data
from colport.tensors.external_data import Layout
from tests import caption_models
from tests.caption_models import HEADS, LAYERS, MODELS, WIDTH

PROMPTS = {"donut": "<s_task>", "blip": "a red", "git": "what does", "florence2": "<CAPTION>"}
CROSS = {f"cross_key_values.{i}.{part}" for i in range(LAYERS) for part in ("key", "value")}


def pictures(count):
    rng = np.random.default_rng(count)
    sizes = [(40 + 8 * i, 60, 3) for i in range(count)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


class Folder:
    """A checkpoint, its export, and both at work."""

    def __init__(self, checkpoint, folder):
        self.place, self.manifest = folder, manifest.read(folder)
        self.family = registry.get(self.manifest.family)
        self.runtime = self.family.runtime(self.manifest.processing, folder)
        self.library = self.family.reference(checkpoint, "cpu")
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / graph.file)
            for name, graph in self.manifest.graphs.items()
        }

    def run(self, graph, feeds):
        session = self.sessions[graph]
        names = [item.name for item in session.get_outputs()]
        return dict(zip(names, session.run(None, feeds), strict=True))

    def begin(self, images, prompts):
        """What a batch begins with, and what the decoder reads of its pictures."""
        beginning = self.runtime.begin([self.runtime.picture(image) for image in images], prompts)
        known = self.manifest.graphs["decoder"].inputs
        read = self.run("image", beginning.feeds)
        return beginning.tokens, {name: read[name] for name in read if name in known}

    def logits(self, read, tokens, steps, mask=None):
        """Behind the last token of each step, ``[steps, batch, vocabulary]``."""
        known, found, end = self.manifest.graphs["decoder"].inputs, [], 0
        empty = np.zeros((len(tokens), HEADS, 0, WIDTH // HEADS), np.float32)
        past = {name: empty for name in known if name.startswith("past_key_values.")}
        for size in steps:
            end += size
            feeds = {"input_ids": tokens[:, end - size : end], **read, **past}
            if "attention_mask" in known:
                given = np.ones_like(tokens) if mask is None else mask
                feeds["attention_mask"] = given[:, :end]
            made = self.run("decoder", feeds)
            found.append(made["logits"][:, 0])
            past = {name: made[name.replace("past_key_values", "present")] for name in past}
            if "image_features" in read:
                read = {"image_features": read["image_features"][:, :0]}
        return np.stack(found)


@pytest.fixture(scope="module")
def checkpoints(captioner_as):
    return lambda name: captioner_as(name)[0]


@pytest.fixture(scope="module")
def folders(captioner_as):
    return functools.cache(lambda name, **settings: Folder(*captioner_as(name, **settings)))


def difference(folder, count, prompt=None):
    """Largest difference of logits with the cache from one pass of the library."""
    images = pictures(count)
    begun, read = folder.begin(images, [prompt] * count)
    more = np.random.default_rng(1).integers(3, 60, (count, 5))
    tokens = np.concatenate([begun, more], axis=1)
    steps = len(begun[0]), 1, 3, 1
    found = folder.logits(read, tokens, steps)
    expected = folder.library.logits(images, tokens, prompt)
    assert np.abs(expected).max() > 1
    return np.abs(found - expected[:, np.cumsum(steps) - 1].swapaxes(0, 1)).max()


@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_with_its_cache_is_the_library_s(name, folders):
    folder = folders(name)
    for count in (1, 3):
        for prompt in {None, PROMPTS.get(name)}:
            assert difference(folder, count, prompt) < 1e-4


@pytest.mark.parametrize("name", ["vit-gpt2", "git"])
def test_an_older_operator_set_gives_the_same(name, folders):
    assert difference(folders(name, opset=21), 3) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_graphs_have_inputs_and_outputs_of_each_layer(name, folders):
    found = folders(name).manifest
    image, decoder = found.graphs["image"], found.graphs["decoder"]
    parts = {f"{i}.{part}" for i in range(LAYERS) for part in ("key", "value")}
    cross = set() if name == "git" else CROSS
    assert found.task == "captioning"
    assert found.dim == WIDTH
    assert {n for n in decoder.inputs if n.startswith("past")} == {
        f"past_key_values.{part}" for part in parts
    }
    assert decoder.outputs.keys() == {"logits", *(f"present.{part}" for part in parts)}
    assert {n for n in decoder.inputs if n.startswith("cross")} == cross
    assert cross <= image.outputs.keys()
    assert decoder.outputs["logits"]["shape"] == ["batch", 1, caption_models.VOCABULARY]
    assert decoder.outputs["present.2.key"]["shape"][:2] == ["batch", HEADS]


@pytest.mark.parametrize(
    ("name", "image", "decoder"),
    [("vit-gpt2", 2, 2 * LAYERS), ("donut", 0, 2 * LAYERS), ("florence2", 8 + LAYERS, 2 * LAYERS)],
)
def test_attention_is_one_operator_where_the_library_lets_it_be(name, image, decoder, folders):
    place, graphs = folders(name).place, folders(name).manifest.graphs
    count = {
        graph: sum(n.op_type == "Attention" for n in onnx.load(place / info.file).graph.node)
        for graph, info in graphs.items()
    }
    assert count == {"image": image, "decoder": decoder}


@pytest.mark.parametrize("name", ["vit-gpt2", "git"])
def test_repeated_layers_are_those_of_a_whole_trace(name, folders, checkpoints, tmp_path):
    folder = folders(name)
    skeleton = folder.family.skeleton(checkpoints(name), "fp32")
    *others, stack = skeleton.stacks
    stack = replace(stack, kinds=tuple(map(str, range(LAYERS))))
    size = folder.manifest.graphs["image"].inputs["pixel_values"]["shape"][2:]
    _, decoder = folder.family.graphs(skeleton.model, stack, "fp32", size)
    whole = _graph(replace(skeleton, stacks=(*others, stack)), decoder, 24)
    external_data.write({"decoder": whole}, tmp_path, Layout())
    _, read = folder.begin(pictures(2), [None] * 2)
    tokens = np.random.default_rng(2).integers(3, 60, (2, 6))
    found = folder.logits(read, tokens, (2, 1, 3))
    folder.sessions["decoder"], own = (
        onnxruntime.InferenceSession(tmp_path / "decoder.onnx"),
        folder.sessions["decoder"],
    )
    expected = folder.logits(read, tokens, (2, 1, 3))
    folder.sessions["decoder"] = own
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["blip", "git"])
def test_prompts_of_unequal_length_share_a_batch(name, folders):
    folder = folders(name)
    images, prompts = pictures(2), ["a", "what does the image"]
    begun, read = folder.begin(images, prompts)
    longest = max(map(len, begun))
    tokens = np.array([[0] * (longest - len(row)) + row for row in begun])
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in begun])
    more = np.random.default_rng(1).integers(3, 60, (2, 3))
    tokens = np.concatenate([tokens, more], axis=1)
    mask = np.concatenate([mask, np.ones_like(more)], axis=1)
    together = folder.logits(read, tokens, (longest, 1, 2), mask)
    for row, own in enumerate(begun):
        alone = np.array([[*own, *more[row]]])
        (_, read) = folder.begin(images[row : row + 1], prompts[row : row + 1])
        found = folder.logits(read, alone, (len(own), 1, 2))
        np.testing.assert_allclose(together[:, row], found[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_texts_are_those_of_the_library_s_processor(name, folders):
    folder = folders(name)
    prompt, images = PROMPTS.get(name), pictures(2)
    begun, _ = folder.begin(images, [prompt] * 2)
    tags = name in ("donut", "florence2")
    rows = folder.library.generate_tokens(images, prompt, max_new_tokens=9)
    for begin, row in zip(begun, rows, strict=True):
        assert row[: len(begin)].tolist() == list(begin)
        shown = row[len(begin) :] if tags else row
        text = folder.library.processor.tokenizer.decode(shown, skip_special_tokens=not tags)
        for end in ("<s>", "</s>", "<pad>") if tags else ():
            text = text.replace(end, "")
        found = folder.runtime.text(row.tolist(), len(begin))
        assert " ".join(found.split()) == " ".join(text.split())


def test_prompts_that_a_model_does_not_take_are_refused(folders):
    image = [np.zeros((3, 32, 32), np.float32)]
    with pytest.raises(InputError, match=r"^prompt\[0\]: .* takes none"):
        folders("vit-gpt2").runtime.begin(image, ["a red"])
    with pytest.raises(InputError, match=r"^prompt\[0\]: .*<CAPTION>, which stands alone"):
        folders("florence2").runtime.begin(image, ["<CAPTION> a red"])


def test_a_head_that_is_stored_for_itself_is_not_tied(checkpoints, tmp_path):
    """transformers ties two weights of a checkpoint only if they are equal."""
    tmp_path.joinpath("own").mkdir()
    for file in checkpoints("vit-gpt2").iterdir():
        (tmp_path / "own" / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "own/model.safetensors")
    table = weights["decoder.transformer.wte.weight"]
    weights["decoder.lm_head.weight"] = table + torch.randn_like(table)
    save_file(weights, tmp_path / "own/model.safetensors", {"format": "pt"})
    export(tmp_path / "own", tmp_path / "out")
    assert difference(Folder(tmp_path / "own", tmp_path / "out"), 1) < 1e-4


def test_every_tensor_is_accounted_for(folders):
    unread = {name: folders(name).manifest.unread for name in MODELS}
    names = {f"encoder.pooler.dense.{part}" for part in ("bias", "weight")}
    for name in ("vit-gpt2", "trocr"):
        assert {row["tensor"] for row in unread[name]} == names
        assert {row["reason"] for row in unread[name]} == {"makes one vector of a picture"}
    assert unread["git"] == unread["florence2"] == unread["donut"] == []


def test_an_export_is_proved_by_its_captions(checkpoints, folders, tmp_path):
    family, checkpoint = folders("git").family, checkpoints("git")
    known = proof.reference(checkpoint, family)
    proof.save(known, tmp_path / "known.npz")
    kept = proof.load(tmp_path / "known.npz")
    found = export(checkpoint, tmp_path / "out", prove=proof.by_checkpoint(lambda: kept))
    (row,) = found.check["rows"]
    assert (found.check["status"], row["kind"], row["inputs"]) == ("passed", "caption", 2)
    assert 0 < row["max_abs_diff"] < 1e-4
    shorter = {**kept, "own": [kept["own"][0], kept["own"][1][:-1]]}
    moved = {**kept, "logits": [kept["logits"][0] + np.float32(1e-3), kept["logits"][1]]}
    for wrong, why in (
        (shorter, "tokens part: own search, batch size 1, input 1, token"),
        (moved, "max_abs_diff 0.001"),
    ):
        with pytest.raises(ParityError, match=rf"not written, since .* \(caption: {why}"):
            proof.by_checkpoint(lambda wrong=wrong: wrong)(tmp_path / "out", found)


# What is refused.


def test_pickled_weights_are_refused_with_the_way_to_a_conversion(checkpoints, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in checkpoints("vit-gpt2").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: pickled .* of refs/pr/N as"):
        export(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("git", {"num_image_with_embedding": 2}, UnsupportedError, "with_embedding is 2, of a"),
        ("trocr", {"use_learned_position_embeddings": False}, UnsupportedError, "False; .* True"),
        ("vit-gpt2", {"n_positions": 16}, CheckpointError, "max_length is 20, allowed is"),
    ],
)
def test_what_is_not_exported_is_refused_by_name(name, settings, error, message, tmp_path):
    checkpoint = caption_models.save(name, tmp_path / "in", **settings)
    with pytest.raises(error, match=message):
        export(checkpoint, tmp_path / "out")


def test_layers_that_differ_are_traced_each_for_itself(tmp_path):
    given = {"scale_attn_by_inverse_layer_idx": True}
    checkpoint = caption_models.save("vit-gpt2", tmp_path / "in", **given)
    skeleton = registry.detect(checkpoint).skeleton(checkpoint, "fp32")
    assert len(set(skeleton.stacks[-1].kinds)) == LAYERS
    names = {item.name for item in skeleton.graphs[1].inputs}
    assert names >= {*CROSS, "past_key_values.0.key", "past_key_values.2.value"}
