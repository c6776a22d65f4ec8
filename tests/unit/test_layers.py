"""One layer of each kind is traced and repeated, or the stack is refused by name."""

import json
import logging
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from colport.base.errors import ExportError, UnsupportedError
from colport.base.redaction import print_redacted
from colport.export.bind import _stored, unread
from colport.export.folder import _graph
from colport.export.layers import check_stacks, repeat_layers
from colport.export.optimise import quiet
from colport.export.trace import _name_interface, naming
from colport.families.base import GraphDefinition, GraphInput, Skeleton, Stack
from colport.families.stacks import named_by_library
from colport.pipeline.job import job
from colport.tensors import external_data
from colport.tensors.external_data import Layout
from colport.tensors.weights import TensorIndex, read_header

WIDTH, DEPTH = 4, 6
ALTERNATING = ("window", "page") * 3


class Layer(nn.Module):
    """Keeps count of how often it is traced."""

    traced = 0

    def __init__(self, number):
        super().__init__()
        self.layer_idx = number
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.factor = [1.0]

    def forward(self, hidden, mask=None, *, flag=True):
        Layer.traced += 1
        moved = torch.tanh(self.linear(hidden)) * self.factor[0]
        return hidden + (moved if mask is None else moved * mask)


class Model(nn.Module):
    """Runs its layers in ways that models do."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList(Layer(i) for i in range(DEPTH))
        self.mergers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        if way == "unequal":
            self.layers[3].factor = [0.5]

    def forward(self, hidden):
        masks = [hidden[..., :1] > 0, hidden[..., 1:2] > 0]
        layers = list(enumerate(self.layers))
        for number, layer in reversed(layers) if self.way == "backwards" else layers:
            mask = masks[number % 2 if self.way in ("alternating", "indexed") else 0]
            hidden = self.step(number, layer, hidden, mask)
        return hidden

    def step(self, number, layer, hidden, mask):
        if self.way == "forward":
            return layer.forward(hidden, mask)
        if self.way == "named":
            return layer(mask=mask, hidden=hidden) if number % 2 else layer(hidden, mask)
        if self.way == "deepstack" and number % 2:
            hidden = layer(hidden, mask)
            return hidden + self.mergers[number // 2](hidden)
        if self.way == "skipped" and number == 2:
            return hidden
        if self.way == "inside" and number == 2:
            return hidden + layer.linear(hidden)
        if self.way == "twice" and number == 2:
            hidden = layer(hidden, mask)
        if self.way == "indexed":
            return layer(hidden, None, flag=number in (1, 4))
        if self.way == "new":
            return layer(hidden, mask.clone())
        if self.way == "fewer" and number:
            return layer(hidden)
        return layer(hidden, mask)


class Numbered(Layer):
    def forward(self, hidden, mask=None):
        return hidden + self.linear(hidden) / (self.layer_idx + 1)


class Looking(Layer):
    def forward(self, hidden, mask=None):
        return hidden + self.linear(hidden) if self.layer_idx in (1, 4) else hidden


class More(Layer):
    def forward(self, hidden, mask=None):
        return super().forward(hidden, mask), hidden.sum(-1)


class Passing(Layer):
    """Gives what it was given beside its hidden states, as T5 its position bias."""

    def forward(self, hidden, mask=None):
        return super().forward(hidden, mask), mask, None


class Wider(Layer):
    def forward(self, hidden, mask=None):
        return torch.cat([hidden, hidden], dim=1)


class Wrapped(Layer):
    def forward(self, hidden, mask=None):
        return {"hidden": super().forward(hidden, mask)}


class Half(Layer):
    def forward(self, hidden, mask=None):
        return super().forward(hidden, mask).half()


def skeleton_of(model, folder, stacks, reasons=None):
    save_file(model.state_dict(), folder / "model.safetensors")
    inputs = (GraphInput("x", "float32", (2, 5, WIDTH), {0: "batch", 1: "tokens"}),)
    graphs = (GraphDefinition("text", inputs, lambda model, x: model(x)),)
    sources = dict(TensorIndex(folder))
    meta = model.to("meta")
    return Skeleton(meta, {}, sources, graphs, WIDTH, "toy", tuple(stacks), reasons or {})


def difference(model, folder, kinds=("layer",) * DEPTH):
    """Between a model and its graph; and how many layers were traced."""
    torch.manual_seed(0)
    x = torch.randn(3, 7, WIDTH)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    Layer.traced = 0
    skeleton = skeleton_of(model, folder, [Stack("layers", kinds)])
    graph = _graph(skeleton, skeleton.graphs[0], 24)
    external_data.write({"text": graph}, folder, Layout())
    session = onnxruntime.InferenceSession(folder / "text.onnx")
    (found,) = session.run(None, {"x": x.numpy()})
    assert not any("forward" in vars(layer) for layer in model.layers)
    assert len(list(model.parameters())) == 2 * DEPTH + 6
    return abs(found - expected).max(), Layer.traced


@pytest.mark.parametrize(
    ("way", "kinds", "traced"),
    [
        ("plain", ("layer",) * DEPTH, 1),
        ("forward", ("layer",) * DEPTH, 1),
        ("named", ("layer",) * DEPTH, 1),
        ("deepstack", ("layer",) * DEPTH, 1),
        ("alternating", ALTERNATING, 2),
        ("unequal", (*ALTERNATING[:3], "other", *ALTERNATING[4:]), 3),
        ("twice", ("layer", "layer", "alone", *("layer",) * 3), 3),
        ("inside", ("layer", "layer", "alone", *("layer",) * 3), 1),
    ],
)
def test_a_repeated_stack_is_the_model(way, kinds, traced, tmp_path):
    found, count = difference(Model(way), tmp_path, kinds)
    assert found < 1e-5
    assert count == traced


def test_what_a_layer_was_given_it_may_give(tmp_path):
    model = Model("plain")
    model.layers = nn.ModuleList(Passing(i) for i in range(DEPTH))
    model.step = lambda number, layer, hidden, mask: layer(hidden, mask)[0]
    found, count = difference(model, tmp_path)
    assert found < 1e-6
    assert count == 1


WRONG = {
    "alternating": (ALTERNATING[:1] * DEPTH, "layers 0 and 1, both 'window', differ in mask"),
    "indexed": (ALTERNATING, "layers 1 and 3, both 'page', differ in flag"),
    "unequal": (ALTERNATING, "layers 1 and 3, both 'page', differ in factor"),
    "new": (("layer",) * DEPTH, "layers 0 and 1, both 'layer', differ in mask"),
    "fewer": (("layer",) * DEPTH, "layers 0 and 1, both 'layer', differ in mask"),
    "skipped": (("layer",) * DEPTH, "layer 2 is left out where others run"),
    "twice": (("layer",) * DEPTH, "layer 2 runs more than once"),
    "plain": (("layer",) * 5, "is no list of 5 layers"),
    "backwards": (("layer",) * DEPTH, f"layer {DEPTH - 1} runs before the first of its kind"),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_stack_that_is_not_as_declared_is_refused(way, tmp_path):
    kinds, message = WRONG[way]
    model = Model(way)
    with pytest.raises(ExportError, match=rf"^backbone toy: text graph: layers: {message}; the"):
        difference(model, tmp_path, kinds)
    assert not any("forward" in vars(layer) for layer in model.layers)
    assert len(list(model.parameters())) == 2 * DEPTH + 6


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Numbered, "a layer computes with layer_idx, its own number"),
        (Looking, "a layer computes with layer_idx, its own number"),
        (More, "layer 0 gives more than hidden states"),
        (Wider, "layer 0 changes the shape or type of hidden states"),
        (Wrapped, "layer 0 gives dict in place of hidden states"),
        (Half, "layer 0 changes the shape or type of hidden states"),
    ],
)
def test_a_layer_that_another_cannot_stand_for_is_refused(layer, message, tmp_path):
    model = Model("plain")
    model.layers = nn.ModuleList(layer(i) for i in range(DEPTH))
    parts = {More: itemgetter(0), Wrapped: itemgetter("hidden")}
    take = parts.get(layer, torch.Tensor.float)
    model.step = lambda number, layer, hidden, mask: take(layer(hidden, mask))
    with pytest.raises(ExportError, match=f"layers: {message}; the layers cannot be repeated"):
        difference(model, tmp_path)
    assert [layer.layer_idx for layer in model.layers] == list(range(DEPTH))


def test_a_list_that_nobody_named_is_traced_whole(tmp_path):
    model = Model("plain")
    skeleton = skeleton_of(model, tmp_path, [], {"mergers": "not used"})
    Layer.traced = 0
    _graph(skeleton, skeleton.graphs[0], 24)
    assert Layer.traced == DEPTH


def boundary(hidden, side, layer):
    attributes = {"side": side, "stack": "s", "layer": layer}
    return ir.node("LayerBoundary", [hidden], attributes, domain="colport")


@pytest.mark.parametrize("leak", ["inside", "input"])
def test_a_layer_that_is_read_from_outside_cannot_be_repeated(leak):
    hidden = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    first = boundary(hidden, "input", 0)
    inner = ir.node("Relu", first.outputs)
    last = boundary(inner.outputs[0], "output", 0)
    further = boundary(last.outputs[0], "further", 1)
    leaked = (inner if leak == "inside" else first).outputs[0]
    spy = ir.node("Add", [leaked, further.outputs[0]])
    leaked.name = "leaked"
    nodes = [first, inner, last, further, spy]
    graph = ir.Graph([hidden], spy.outputs, nodes=nodes, opset_imports={"": 23})
    with pytest.raises(ExportError, match=r"s: 'leaked' .* of a layer is read outside"):
        repeat_layers(ir.Model(graph, ir_version=10), [Stack("s", ("layer", "layer"))])


def test_a_layer_whose_first_is_not_in_the_graph_cannot_be_repeated():
    hidden = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    further = boundary(hidden, "further", 1)
    graph = ir.Graph([hidden], further.outputs, nodes=[further], opset_imports={"": 23})
    with pytest.raises(ExportError, match="s: layer 0 is not in the graph"):
        repeat_layers(ir.Model(graph, ir_version=10), [Stack("s", ("layer", "layer"))])


class Kept(Layer):
    """Attends to what it saw before, which its graph is given and gives by layer."""

    def forward(self, hidden, kept):
        number = getattr(self.layer_idx, "layer", self.layer_idx)
        kept[number] = torch.cat([kept[number], self.linear(hidden)], dim=1)
        return hidden + torch.tanh(kept[number].mean(dim=1, keepdim=True))


def with_states(folder, kinds, leaks=False):
    """A model whose layers keep states, and its skeleton."""
    torch.manual_seed(0)
    model = Model("plain")
    model.layers = nn.ModuleList(Kept(i) for i in range(DEPTH))
    stack = Stack("layers", kinds, ("past.{}", "present.{}"))
    numbers = sorted({stack.first(i) for i in range(DEPTH)})

    def forward(model, x, *past):
        kept = dict(zip(numbers, past, strict=True))
        first = past[0]
        x = x + first.shape[1]
        if leaks:
            x = x + first.mean()
        for layer in model.layers:
            x = layer(x, kept)
        return x * 2, *kept.values()

    skeleton = skeleton_of(model, folder, [stack], {"mergers": "not used"})
    axes = {0: "batch", 1: "past"}
    past = [GraphInput(f"past.{i}", "float32", (2, 3, WIDTH), axes) for i in numbers]
    names = ("y", *(f"present.{i}" for i in numbers))
    given = (*skeleton.graphs[0].inputs, *past)
    return skeleton, GraphDefinition("decoder", given, forward, names)


def test_each_layer_has_its_own_states(tmp_path):
    whole, repeated = (
        _graph(*with_states(tmp_path, kinds), 24)
        for kinds in (tuple(map(str, range(DEPTH))), ("layer",) * DEPTH)
    )
    external_data.write({"whole": whole, "repeated": repeated}, tmp_path, Layout())
    rng = np.random.default_rng(0)
    for past in (0, 5):
        feeds = {"x": rng.standard_normal((2, 4, WIDTH), np.float32)}
        for i in range(DEPTH):
            feeds[f"past.{i}"] = rng.standard_normal((2, past, WIDTH), np.float32)
        found = {}
        for name in ("whole", "repeated"):
            session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
            names = [item.name for item in session.get_outputs()]
            found[name] = dict(zip(names, session.run(None, feeds), strict=True))
        assert found["whole"].keys() == {"y", *(f"present.{i}" for i in range(DEPTH))}
        assert list(found["repeated"]) == list(found["whole"])
        for name, values in found["whole"].items():
            np.testing.assert_allclose(found["repeated"][name], values, atol=1e-6)


def test_states_that_are_read_outside_of_their_layer_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"layers: '.*' .* of a layer is read outside"):
        _graph(*with_states(tmp_path, ("layer",) * DEPTH, leaks=True), 24)


def test_states_that_no_layer_has_are_refused(tmp_path):
    skeleton, decoder = with_states(tmp_path, ("layer",) * DEPTH)
    (stack,) = skeleton.stacks
    more = replace(stack, own=(*stack.own, "y"))
    with pytest.raises(ExportError, match="layers: y is not a layer's own"):
        _graph(replace(skeleton, stacks=(more,)), decoder, 24)


@pytest.mark.parametrize("way", ["plain", "idle", "unused"])
def test_a_stack_of_which_no_layer_runs_is_refused(way, tmp_path):
    model = Model(way)
    if way == "idle":
        model.step = lambda number, layer, hidden, mask: hidden
    elif way == "unused":  # they run, and nothing reads what they give
        model.step = lambda number, layer, hidden, mask: (layer(hidden, mask), hidden)[1]
    stacks = [Stack("layers", ("layer",) * DEPTH), Stack("mergers", ("a", "b", "c"))]
    skeleton = skeleton_of(model, tmp_path, stacks)
    graphs = [_graph(skeleton, skeleton.graphs[0], 24)]
    expected = pytest.raises(ExportError, match=r"^layers: none of its 6 layers runs in")
    with nullcontext() if way == "plain" else expected:
        check_stacks(graphs, skeleton.stacks)


def test_stacks_that_transformers_names():
    import transformers

    def kinds(name, **settings):
        config = getattr(transformers, f"{name}Config")(vocab_size=30, hidden_size=16, **settings)
        with torch.device("meta"):
            model = getattr(transformers, f"{name}Model")(config)
        return {stack.name: stack.kinds for stack in named_by_library(model)}

    small = {"intermediate_size": 32, "num_attention_heads": 2}
    assert kinds("Bert", **small, num_hidden_layers=3) == {"encoder.layer": ("layer",) * 3}
    full, sliding = "full_attention", "sliding_attention"
    found = kinds("ModernBert", **small, num_hidden_layers=7, pad_token_id=0)
    # The first has no norm before its attention.
    others = (sliding, sliding, f"{full} 2", sliding, sliding, f"{full} 2")
    assert found == {"layers": (full, *others)}
    found = kinds("Gemma3Text", **small, num_hidden_layers=7, num_key_value_heads=1, head_dim=8)
    assert found == {"layers": (*(sliding,) * 5, full, sliding)}
    grouped = {"embedding_size": 16, "q_groups": 2, "k_groups": 2, "v_groups": 2}
    assert kinds("SqueezeBert", **small, **grouped) == {}


# A graph is for inputs of any size that the runtime gives it.


@pytest.mark.parametrize(
    ("is_short", "longest", "refused"),
    [
        (lambda size: size <= 8, math.inf, "longer than 8"),
        (lambda size: size <= 8, 9, "longer than 8"),
        (lambda size: size <= 8, 8, None),
        (lambda size: size < 4, math.inf, "shorter than 4"),
        (lambda size: size < 2, math.inf, None),
    ],
)
def test_a_way_for_some_sizes_alone_is_refused(is_short, longest, refused, tmp_path):
    model = Model("plain")

    def step(number, layer, hidden, mask):
        return hidden * (2 if is_short(hidden.shape[1]) else 1)

    model.step = step
    skeleton = replace(skeleton_of(model, tmp_path, []), longest=longest)
    with pytest.raises(ExportError, match=f"for inputs {refused};") if refused else nullcontext():
        _graph(skeleton, skeleton.graphs[0], 24)


# Every tensor is read, or named with a reason.


def accounted(folder, reasons, change=None):
    model = Model("plain")
    skeleton = skeleton_of(model, folder, [Stack("layers", ("layer",) * DEPTH)], reasons)
    if change:
        change(skeleton.tensors)
    return unread([_graph(skeleton, skeleton.graphs[0], 24)], skeleton, folder)


def test_tensors_that_no_graph_reads_are_named_with_their_reason(tmp_path):
    expected = [
        {"file": "model.safetensors", "tensor": f"mergers.{i}.{name}", "reason": "not needed"}
        for i in range(3)
        for name in ("bias", "weight")
    ]
    assert accounted(tmp_path, {r"^mergers\.": "not needed", "layers": "read all the same"}) == (
        expected
    )


@pytest.mark.parametrize("reasons", [{}, {r"^mergers\.[01]": "not needed"}])
def test_a_tensor_that_is_left_out_without_a_reason_ends_the_export(reasons, tmp_path):
    count = 2 if reasons else 6
    first = "mergers.2.bias" if reasons else "mergers.0.bias"
    message = rf"model.safetensors: {count} tensors are read by no graph, first '{first}'"
    with pytest.raises(ExportError, match=message):
        accounted(tmp_path, reasons)


def test_tensors_that_the_family_did_not_look_at_count_as_well(tmp_path):
    with pytest.raises(ExportError, match=r"6 tensors are read by no graph, first 'mergers.0"):
        accounted(
            tmp_path, {}, lambda sources: [sources.pop(k) for k in list(sources) if "merg" in k]
        )


def test_tensors_of_a_shard_that_gave_none_count_as_well(tmp_path):
    def sharded(sources):
        weights = load_file(tmp_path / "model.safetensors")
        shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        files = {name: shards["mergers" in name] for name in weights}
        for file in shards:
            save_file({k: v for k, v in weights.items() if files[k] == file}, tmp_path / file)
        (tmp_path / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": files}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        stored = TensorIndex(tmp_path)
        sources.clear()
        sources |= {name: stored[name] for name in weights if "mergers" not in name}

    rows = accounted(tmp_path, {"mergers": "not needed"}, sharded)
    assert {row["file"] for row in rows} == {"model-00002-of-00002.safetensors"}
    assert len(rows) == 6


def test_a_reason_may_name_the_model_s_parameter(tmp_path):
    """A checkpoint of an older release has other names for it."""

    def renamed(sources):
        weights = load_file(tmp_path / "model.safetensors")
        mergers = sorted(name for name in weights if "mergers" in name)
        old = {f"old.{i}": weights.pop(name) for i, name in enumerate(mergers)}
        save_file(weights | old, tmp_path / "model.safetensors")
        stored = read_header(tmp_path / "model.safetensors")
        sources |= {name: stored[name] for name in weights}
        sources |= dict(zip(mergers, (stored[name] for name in sorted(old)), strict=True))

    rows = accounted(tmp_path, {r"^mergers\.": "not needed"}, renamed)
    assert [(row["tensor"], row["reason"]) for row in rows] == [
        (f"old.{i}", "not needed") for i in range(6)
    ]


def test_a_tensor_that_an_adapter_replaces_is_named(tmp_path):
    def replaced(sources):
        base = sources["layers.0.linear.bias"]
        save_file({"own": torch.ones(WIDTH)}, tmp_path / "adapter.safetensors")
        (own,) = read_header(tmp_path / "adapter.safetensors").values()
        sources["layers.0.linear.bias"] = replace(own, replaces=base)

    rows = accounted(tmp_path, {"mergers": "not needed"}, replaced)
    assert rows[0] == {
        "file": "model.safetensors",
        "tensor": "layers.0.linear.bias",
        "reason": "replaced by the adapter's own",
    }
    assert len(rows) == 7


# Whatever is raised is one sentence with the backbone's name.


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        (
            TypeError("__trunc__\nat line 3"),
            ExportError,
            r"cannot be exported \(TypeError: __trunc",
        ),
        (AssertionError(), ExportError, r"cannot be .* no reason given\)\.$"),
        (UnsupportedError("X: attention's y is not exported."), UnsupportedError, "X: attention"),
        (ExportError("layers: is no list."), ExportError, r"layers: is no list\.$"),
    ],
)
def test_what_tracing_raises_is_a_sentence_about_the_backbone(raised, kind, sentence, tmp_path):
    skeleton = skeleton_of(Model("plain"), tmp_path, [])

    def fail(model, x):
        raise raised

    definition = replace(skeleton.graphs[0], forward=fail)
    with pytest.raises(kind, match=f"^backbone toy: text graph: {sentence}") as caught:
        _graph(skeleton, definition, 24)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is raised


def test_what_python_prints_of_a_fault_of_ours_has_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", print)
    with pytest.raises(RuntimeError), job(tmp_path / "log", "toy"):
        raise RuntimeError("hf_" + "t" * 34)
    assert sys.excepthook is print_redacted
    log = (tmp_path / "log").read_text()
    assert "RuntimeError" in log
    assert "ttt" not in log


def test_the_log_has_the_traceback_of_a_failed_export(tmp_path):
    with pytest.raises(SystemExit), job(tmp_path / "log", "toy"):
        raise ExportError("backbone toy: no.") from TypeError("the reason")
    log = (tmp_path / "log").read_text()
    assert log.startswith("[toy] error: backbone toy: no.\n")
    assert "TypeError: the reason" in log
    assert "Traceback" in log


def test_a_graph_s_fault_is_said_once():
    tokens = GraphInput("input_ids", "int64", (2, 20), {1: "tokens"})
    definition = GraphDefinition("text", (tokens,), None)
    value = ir.Value(name="x", shape=ir.Shape([2, 20]))
    model = SimpleNamespace(graph=SimpleNamespace(inputs=[value], outputs=[]))
    skeleton = Skeleton(nn.Identity(), {}, {}, (definition,), 1, backbone="bert")
    message = r"^backbone bert: text graph: axis 'tokens' of input_ids froze at 20\.$"
    with pytest.raises(ExportError, match=message), naming(skeleton, definition):
        _name_interface(model, definition)


def test_the_tensors_of_every_folder_that_gave_one_count(tmp_path):
    """A backbone in shards, and a head in a file of its own."""
    files = {
        "backbone/model-1": "b",
        "backbone/model-2": "c",
        "head/model": "a",
        "other/model": "d",
    }
    for file, key in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        save_file({key: torch.ones(1)}, tmp_path / f"{file}.safetensors")
    shards = {"b": "model-1.safetensors", "c": "model-2.safetensors"}
    index = {"metadata": {}, "weight_map": shards}
    (tmp_path / "backbone/model.safetensors.index.json").write_text(json.dumps(index))
    headers = (
        read_header(tmp_path / f"{file}.safetensors") for file in ("backbone/model-1", "head/model")
    )
    used = [entry for header in headers for entry in header.values()]
    assert sorted(entry.key for entry in _stored(used)) == ["a", "b", "c"]


def test_what_was_silent_before_is_silent_after():
    before = logging.root.manager.disable
    try:
        for level in (logging.NOTSET, logging.ERROR):
            logging.disable(level)
            with quiet():
                assert logging.root.manager.disable == logging.WARNING
            assert logging.root.manager.disable == level
            with pytest.raises(ValueError, match="x"), quiet():
                raise ValueError("x")
            assert logging.root.manager.disable == level
    finally:
        logging.disable(before)
