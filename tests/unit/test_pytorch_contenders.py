"""PyTorch in bf16 and compiled, beside the fp32 reference."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colport.base.errors import UnsupportedError
from colport.families import registry
from colport.measure import entrants
from tests.unit.test_job_arguments import Recorder

INPUTS = {
    "colbert": (["how tall is it", "who"], ["a passage on towers", "another"]),
    "colpali": (["a red pie chart"], [Image.new("RGB", (200, 260), "teal")]),
    "colqwen2": (["a red pie chart"], [Image.new("RGB", (200, 260), "teal")]),
}


def test_each_way_to_run_pytorch_is_a_contender(monkeypatch, tmp_path):
    monkeypatch.setattr(entrants, "read_manifest", lambda folder: SimpleNamespace(opset=24))
    checkpoint = {"folder": str(tmp_path), "family": "colbert"}
    contest = entrants.Contest("m", "cpu", checkpoint, {"fp32": "folder"}, list, "", {})
    found, missing = contest.entrants(2, ["bf16", "compile-bf16"])
    names = [(entrant.variant, entrant.provider) for entrant in found]
    assert names == [
        ("pytorch", "torch-cpu"),
        ("pytorch-bf16", "torch-cpu"),
        ("pytorch-compile-bf16", "torch-cpu"),
        ("fp32", "cpu"),
    ]
    assert found[2].arguments["precision"] == "bf16"
    assert found[2].arguments["compiled"] is True
    assert missing == {}


@pytest.mark.parametrize("family", INPUTS)
def test_bf16_is_close_and_parts_are_the_whole(family, checkpoint_folders):
    whole, half = (
        entrants.reference(str(checkpoint_folders[family]), family, "cpu", 2, precision)
        for precision in ("fp32", "bf16")
    )
    queries, documents = INPUTS[family]
    for inputs, kind in ((queries, "queries"), (documents, "documents")):
        expected = getattr(whole, f"encode_{kind}")(inputs, batch_size=8)
        found = getattr(half, f"encode_{kind}")(inputs, batch_size=8)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == np.float32
            assert 0 < np.abs(ours - theirs).max() < 0.1
        output = whole.run(getattr(whole, f"prepare_{kind}")(inputs))
        assert output.shape[0] == len(inputs)
        tokens = output.reshape(-1, output.shape[-1])
        assert all((np.abs(tokens - rows[0]).max(axis=1) < 1e-5).any() for rows in expected)


@pytest.mark.parametrize(("precision", "types"), [("fp32", []), ("bf16", ["bfloat16"])])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_in_memory_is_compiled_if_asked_for(precision, types, compiled, monkeypatch):
    to, compiles = Recorder(), Recorder()
    made = SimpleNamespace(
        room=SimpleNamespace(is_streamed=False), module=SimpleNamespace(to=to, compile=compiles)
    )
    monkeypatch.setattr(registry, "get", lambda name: SimpleNamespace(reference=lambda *_: made))
    monkeypatch.setattr(entrants, "_prepare_compiling", lambda: None)
    threads = Recorder()
    monkeypatch.setattr("torch.set_num_threads", threads)
    assert entrants.reference("c", "colbert", "cpu", 3, precision, compiled) is made
    assert threads.calls == [((3,), {})]
    assert [str(given[0]) for given, _ in to.calls] == [f"torch.{name}" for name in types]
    assert compiles.calls == [((), {"dynamic": True})] * compiled


def test_compiling_without_a_compiler_is_unsupported(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match=r"C\+\+ compiler; 'no-such-compiler'"):
        entrants.reference("c", "colbert", "cpu", 1, compiled=True)
