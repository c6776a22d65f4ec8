"""A reference whose weights do not fit: the same embeddings, one operator's weights at once."""

import copy
import math
import resource
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import Normalize

from colport.base import machine
from colport.base.errors import UnsupportedError
from colport.families import registry
from colport.families.reference import stored_parameters
from colport.families.reference.memory import Room, needed_mb, whole_mb
from colport.families.reference.stored_parameters import StoredParameter, fill
from colport.measure import entrants
from colport.tensors.weights import TensorIndex
from tests import page_models
from tests.conftest import RESOURCES
from tests.text_models import dense, make_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
DEMOS = {name: RESOURCES / f"checkpoints/{name}" for name in ("colpali-demo", "colqwen2-demo")}
STORED = {file.parent.name: file.parent for file in FIXTURES.glob("*/embeddings.npz")}
FAMILIES = ("colpali", "colqwen2")
LITTLE, PLENTY = 1.0, math.inf
QUERIES = ["a red pie chart", "", "who wrote the second part, and when was it written?"]
PASSAGES = ["a passage on towers", "another and longer passage on the towers of the city", "one"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A checkpoint of colpali-engine in bf16 shards for each family, and an adapter on it."""
    root, found = tmp_path_factory.mktemp("engine"), {}
    for family in ("colpali", "colqwen2"):
        base = page_models.save(
            *(family, "colpali-engine", root / family),
            dtype=torch.bfloat16,
            max_shard_size="200KB",
        )
        adapter = page_models.save_adapter(family, base, root / f"{family}-adapter")
        for file in base.glob("model*"):
            (adapter / file.name).symlink_to(file)
        (adapter / "config.json").symlink_to(base / "config.json")
        found |= {f"{family}-engine": base, f"{family}-adapter": adapter}
    return found


def open_both(folder):
    family = registry.detect(folder)
    return [family.reference(folder, "cpu", memory) for memory in (PLENTY, LITTLE)]


def documents_of(folder):
    if registry.detect(folder).document_type == "passages":
        return PASSAGES
    return [page_models.page(*size) for size in ((168, 168), (90, 310), (400, 90))]


def one_by_one(reference, folder):
    """As a reference with little memory takes them: padding would change the last digits."""
    return [
        *reference.encode_queries(QUERIES, batch_size=1),
        *reference.encode_documents(documents_of(folder), batch_size=1),
    ]


class Live:
    """Bytes of weights that are in memory, and how often each was read."""

    def __init__(self, monkeypatch):
        self.now = self.most = 0
        self.reads = {}
        for name in ("read", "rows"):
            monkeypatch.setattr(StoredParameter, name, self.watched(getattr(StoredParameter, name)))

    def watched(self, method):
        def watch(parameter, *arguments):
            values = method(parameter, *arguments)
            if parameter.dim() > 1:
                key = parameter._stored.key
                self.reads[key] = self.reads.get(key, 0) + 1
            if method.__name__ == "read":  # rows are activations
                self.now += values.nbytes
                self.most = max(self.most, self.now)
                weakref.finalize(values, self.let_go, values.nbytes)
            return values

        return watch

    def let_go(self, size):
        self.now -= size


@pytest.mark.parametrize("name", [*DEMOS, *STORED, "minilm"])
def test_streamed_embeddings_are_those_of_a_model_in_memory(name, checkpoint_folders):
    folder = {**DEMOS, **STORED, "minilm": checkpoint_folders["colbert"]}[name]
    whole, streamed = open_both(folder)
    assert (whole.room.weights, streamed.room.weights) == ("in memory", "streamed")
    assert any(isinstance(weight, StoredParameter) for weight in streamed.module.parameters())
    found, expected = one_by_one(streamed, folder), one_by_one(whole, folder)
    assert page_models.largest_difference(found, expected) <= 1e-6
    assert not np.allclose(found[0][-1], found[2][-1])


def test_modules_without_weights_may_stand_anywhere_in_a_head(tmp_path):
    between = dense(16, 24, bias=True, activation_function=torch.nn.Tanh())
    unit = [Normalize("token_embeddings") for _ in range(2)]
    head = [unit[0], between, unit[1], dense(24, 8, use_residual=True)]
    folder = make_checkpoint(tmp_path / "checkpoint", "bert", head=head)
    whole, streamed = open_both(folder)
    found, expected = one_by_one(streamed, folder), one_by_one(whole, folder)
    assert page_models.largest_difference(found, expected) <= 1e-6
    assert not np.allclose(found[0][-1], found[2][-1])


@pytest.mark.parametrize("name", [f"{f}-{k}" for f in FAMILIES for k in ("engine", "adapter")])
def test_shards_half_precision_and_adapters_are_read_on_the_way(name, engine):
    whole, streamed = open_both(engine[name])
    found, expected = one_by_one(streamed, engine[name]), one_by_one(whole, engine[name])
    assert page_models.largest_difference(found, expected) <= 1e-6


@pytest.mark.parametrize("name", DEMOS)
def test_one_weight_is_in_memory_at_a_time(name, monkeypatch):
    live = Live(monkeypatch)
    reference = registry.detect(DEMOS[name]).reference(DEMOS[name], "cpu", LITTLE)
    assert live.reads == {}, "weights are read when an operator takes them, not at loading"
    one_by_one(reference, DEMOS[name])
    tables = [p for p in reference.module.parameters() if isinstance(p, StoredParameter)]
    largest = max(weight.numel() * 4 for weight in tables)
    total = sum(weight.numel() * 4 for weight in tables)
    assert 0 < live.most <= largest < total / 4
    assert live.now == 0


def test_a_pass_takes_as_many_inputs_as_memory_allows(monkeypatch):
    folder = DEMOS["colpali-demo"]
    whole, streamed = open_both(folder)
    pages = [page_models.page(168, 168, seed) for seed in range(5)]
    tokens = whole.prepare_documents(pages[:1])["input_ids"].shape[1]
    room = streamed.room = Room(10**9, 1500 + 2.5 * tokens * 330 / 1030)
    assert room.is_streamed
    assert 2 * tokens < room.tokens < 3 * tokens
    live = Live(monkeypatch)
    found = streamed.encode_documents(pages, batch_size=1)
    assert set(live.reads.values()) == {3}, "two, two and one page"
    expected = whole.encode_documents(pages, batch_size=2)
    assert page_models.largest_difference(found, expected) <= 1e-6


def test_what_a_reference_needs():
    assert whole_mb(0) == 1580
    assert whole_mb(2_925_000_000) == pytest.approx(1500 + 17_550 + 80 + 731.25)
    assert needed_mb(10**9, math.inf) == whole_mb(10**9) == 1500 + 6000 + 330
    assert needed_mb(10**9, 20_000) == 7830
    assert needed_mb(10**9, 4000) == 4000
    assert needed_mb(10**9, 100) == 1830, "one page a pass needs that"


@pytest.mark.parametrize(
    ("allowed", "streamed", "tokens"),
    [(7830, False, 19757), (7829, True, 19754), (2160, True, 2060), (1.0, True, 1)],
)
def test_the_decision_follows_the_memory(allowed, streamed, tokens):
    room = Room(10**9, allowed)
    assert (room.is_streamed, room.tokens) == (streamed, tokens)
    assert room.weights == ("streamed" if streamed else "in memory")
    assert (
        room.note == "" if not streamed else f"7830 MB to hold them, {allowed:.0f} MB" in room.note
    )


def test_what_is_allowed_is_what_is_available_unless_it_is_said(monkeypatch):
    monkeypatch.setattr("colport.families.reference.memory.available_mb", lambda: 1234.0)
    folder = DEMOS["colpali-demo"]
    assert Room.of(folder, None).allowed_mb == 1234.0
    assert Room.of(folder, 99.0).allowed_mb == 99.0
    index = TensorIndex(folder)
    assert Room.of(folder, None).parameters == sum(math.prod(e.shape) for e in index.values())


def test_every_file_of_weights_counts(tmp_path):
    for number, name in enumerate(
        ("model-1.safetensors", "model-2.safetensors", "in/x.safetensors")
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"a": torch.zeros(10**number, 2), "b": torch.zeros(())}, tmp_path / name)
    (tmp_path / "._model-1.safetensors").write_bytes(b"what macOS puts beside files")
    assert Room.of(tmp_path, 1.0).parameters == 2 * 111 + 3


def groups(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("line", "files", "left"),
    [
        (
            "0::/job/step",
            {
                "job/memory.max": "5000\n",
                "job/memory.stat": "anon 1500\nfile 3000\n",
                "job/step/memory.max": "max\n",
                "job/step/memory.stat": "anon 100\nfile 3000\n",
            },
            [3500],
        ),
        (
            "4:cpu,memory:/job",
            {
                "memory/job/memory.limit_in_bytes": "7000\n",
                "memory/job/memory.stat": "rss 1\ntotal_rss 1000\n",
                "memory/memory.limit_in_bytes": "9000\n",
                "memory/memory.stat": "total_rss 2500\n",
            },
            [6000, 6500],
        ),
        (
            "4:memory:/docker/of-the-host",
            {"memory/memory.limit_in_bytes": "900", "memory/memory.stat": "total_rss 1"},
            [899],
        ),
        ("3:cpu:/job", {"cpu/job/memory.max": "1"}, []),
    ],
)
def test_a_control_group_leaves_what_it_does_not_hold(line, files, left, tmp_path):
    groups(tmp_path / "cgroup", files)
    (tmp_path / "own").write_text(f"{line}\n")
    assert machine._left_in_groups(tmp_path / "cgroup", tmp_path / "own") == left


def test_the_least_counts(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_left_in_groups", lambda: [10**7])
    assert machine.available_mb() == 4.096
    monkeypatch.setattr(machine, "_left_in_groups", lambda: [10**7, 3 * 10**6])
    assert machine.available_mb() == 3.0
    endless = resource.RLIM_INFINITY
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        limits = {kind: 2 * 10**6}.get
        monkeypatch.setattr(resource, "getrlimit", lambda asked, of=limits: (of(asked, endless), 0))
        assert machine.available_mb() == 2.0


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A table of 50 rows in bf16, read three at a time, and the same in memory."""
    monkeypatch.setattr(stored_parameters, "_BLOCK_BYTES", 3 * 6 * 2)
    values = torch.randn(50, 6).to(torch.bfloat16)
    save_file({"table": values, "behind": torch.zeros(50, 6)}, tmp_path / "model.safetensors")
    source = TensorIndex(tmp_path)["table"]
    return StoredParameter.of(source, torch.float32, "cpu"), values.float()


FUNCTIONS = {
    "linear": lambda w: torch.nn.functional.linear(torch.ones(2, 6), w),
    "reflected product": lambda w: torch.ones(2, 50) @ w,
    "list": lambda w: torch.cat([w, w]),
    "keyword": lambda w: torch.add(torch.ones(50, 6), other=w),
    "method": lambda w: w.sum(dim=1),
    "transposed": lambda w: w.T,
    "data": lambda w: w.data,
    "row": lambda w: w[3],
    "half": lambda w: w.to(torch.bfloat16) + 1,
    "rows": lambda w: torch.nn.functional.embedding(torch.tensor([[7, 8, 10], [49, 0, 8]]), w),
    "many rows": lambda w: torch.nn.functional.embedding(torch.arange(9, 41), w),
    "no row": lambda w: torch.nn.functional.embedding(torch.empty(2, 0, dtype=torch.long), w),
    "bounded rows": lambda w: torch.nn.functional.embedding(torch.tensor([3]), w, max_norm=0.1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_gets_the_values(name, stored):
    parameter, values = stored
    with torch.no_grad():
        found, expected = FUNCTIONS[name](parameter), FUNCTIONS[name](values)
    assert found.dtype == expected.dtype
    assert torch.equal(torch.as_tensor(found), expected)


@pytest.mark.parametrize("row", [-1, 50])
def test_a_row_that_is_not_there_is_refused(row, stored):
    """Behind the table lies another tensor's row."""
    with pytest.raises(IndexError, match="index out of range"):
        torch.nn.functional.embedding(torch.tensor([row]), stored[0])


IN_PLACE = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift"),
    "rshift",
]


@pytest.mark.parametrize(
    "change", ["add_", "fill_", "__setitem__", *(f"__i{name}__" for name in IN_PLACE)]
)
def test_a_stored_weight_is_not_changed_in_place(change, stored):
    arguments = (0, 1.0) if change == "__setitem__" else (1.0,)
    with pytest.raises(RuntimeError, match=r"table: .* would change a stored weight"):
        getattr(stored[0], change)(*arguments)


def test_another_dtype_or_device_reads_nothing(stored, monkeypatch):
    live = Live(monkeypatch)
    module = torch.nn.Linear(6, 50, bias=False)
    module.weight = stored[0]
    module.to(torch.bfloat16).requires_grad_(False)
    assert (module.weight.dtype, live.reads) == (torch.bfloat16, {})
    assert torch.equal(module(torch.eye(6).bfloat16()).T, stored[1].bfloat16())
    module.to("meta")
    assert (module.weight.device.type, module.weight.shape) == ("meta", (50, 6))


def test_tied_weights_and_what_no_output_depends_on(tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(50, 6)
            self.head = torch.nn.Linear(6, 50, bias=False)
            self.unread = torch.nn.Linear(6, 6)
            self.head.weight = self.words.weight
            self.register_buffer("scale", torch.tensor(3.0))
            self.register_buffer("computed", torch.tensor(2.0), persistent=False)
            self.unread.register_buffer("scale", self.scale)

        def forward(self, ids):
            return self.head(self.words(ids) * self.unread.scale * self.computed)

    whole = Model()
    ids, words = torch.tensor([[1, 4], [4, 9]]), whole.words.weight.detach()
    save_file({"words": words, "scale": whole.scale}, tmp_path / "model.safetensors")
    index = TensorIndex(tmp_path)
    empty = copy.deepcopy(whole).to("meta")
    empty.head.weight = empty.words.weight  # which ``to`` has parted
    sources = {
        "words.weight": index["words"],
        "head.weight": index["words"],
        "scale": index["scale"],
        "unread.scale": index["scale"],
    }
    empty.unread.scale = empty.scale
    fill(empty, sources, {"computed": whole.computed})
    with torch.inference_mode():
        assert torch.equal(empty(ids), whole(ids))
        assert empty.unread(torch.ones(6)).isnan().all()


def test_latency_rows_say_what_pytorch_was(monkeypatch, tmp_path):
    monkeypatch.setattr(entrants, "read_manifest", lambda folder: SimpleNamespace(opset=24))
    (tmp_path / "weights").write_bytes(bytes(3_000_000))
    checkpoint = {"folder": str(DEMOS["colpali-demo"]), "family": "colpali"}
    given = ("m", "cpu", checkpoint, {"fp32": str(tmp_path)}, list, "", {})
    found, _ = entrants.Contest(*given, 1000.0).entrants(2, ["bf16"])
    assert [one.arguments.get("memory_mb") for one in found] == [1000.0, 1000.0, None]
    assert [one.note.partition(":")[0] for one in found] == [
        *["the weights are read from the checkpoint's files in each pass"] * 2,
        "",
    ]
    found, _ = entrants.Contest(*given, PLENTY).entrants(2)
    assert [one.note for one in found] == ["", ""]
    monkeypatch.setattr(machine, "available_mb", lambda: 1003)
    found, _ = entrants.Contest(*given).entrants(2, ["bf16"])
    assert found[0].arguments["memory_mb"] == 500


def test_streamed_in_bf16_and_never_compiled(monkeypatch):
    monkeypatch.setattr(entrants, "_prepare_compiling", lambda: None)
    folder = str(DEMOS["colqwen2-demo"])
    whole, streamed = (
        entrants.reference(folder, "colqwen2", "cpu", 2, "bf16", memory_mb=memory)
        for memory in (PLENTY, LITTLE)
    )
    found, expected = (each.encode_queries(QUERIES[:1]) for each in (streamed, whole))
    assert page_models.largest_difference(found, expected) <= 1e-6
    with pytest.raises(UnsupportedError, match="needs a model in memory; the weights are read"):
        entrants.reference(folder, "colqwen2", "cpu", 2, compiled=True, memory_mb=LITTLE)


def test_a_limit_that_cannot_be_held_is_said():
    """Python and its libraries take 1500 MB, one page of 100 M parameters 105."""
    assert Room(10**8, 1700).note.endswith("1700 MB are allowed")
    assert Room(10**8, 1604).note.endswith("less than the 1605 MB that it takes so, too")
