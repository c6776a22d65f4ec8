"""Who is measured, on what, and what each row says of it, with two of each."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from colport.base.errors import PeerError, UnsupportedError
from colport.measure import embedders, entrants, latency, operations, placement, profile, scenarios
from colport.runtime import remote
from colport.timing.server.settings import ScenarioSettings
from tests.unit.test_job_arguments import Recorder

LABELS = {"model": "m", "variant": "int8", "provider": "fast", "kind": "query"}
LATENCY = {
    **{"batch_sizes": [1, 4], "rounds": 5, "max_seconds": 5, "pytorch": ["bf16"]},
    "threads": 6,
}


def event(name, provider, microseconds, **more):
    return {"args": {"op_name": name, "provider": provider, **more}, "dur": microseconds}


def test_time_and_nodes_by_execution_provider():
    calls = [
        [event("MatMul", "A", 3000), event("Add", "B", 1000)],
        [event("MatMul", "A", 5000), event("Add", "B", 1000), event("Add", "B", 2000)],
        [event("MatMul", "A", 9000), event("Add", "B", 5000)],
    ]
    assert placement.median_ms(calls, "provider") == {"A": 5.0, "B": 3.0}
    assert placement.median_ms(calls, "op_name") == {"MatMul": 5.0, "Add": 3.0}
    assert profile._by_operator(calls[1:]) == {
        "MatMul": {"nodes": 1, "ms": 7.0},
        "Add": {"nodes": 2, "ms": 4.0},
    }
    found = placement.rows(LABELS, "B", calls, {"A": 3, "B": 1, "C": 4})
    figures = ("execution_provider", "nodes", "node_share", "ms", "time_share")
    assert [[row[name] for name in figures] for row in found] == [
        ["B", 1, 0.125, 3.0, 0.375],
        ["A", 3, 0.375, 5.0, 0.625],
        ["C", 4, 0.5, 0.0, 0.0],
    ]
    assert {row["kind"] for row in found} == {"query"}
    (none,) = placement.rows(LABELS, "B", [[]], {})
    assert [none[name] for name in figures] == ["B", 0, None, 0.0, None]


def test_what_ran_elsewhere_is_said_from_a_share_on():
    def placed(kind, *shares, status="ok", **changes):
        return [
            {**LABELS, "kind": kind, "execution_provider": f"E{number}", "status": status}
            | {"time_share": share, **changes}
            for number, share in enumerate(shares)
        ]

    table = pd.DataFrame(
        [
            *placed("query", 0.5, 0.03, 0.029, 0.25),
            *placed("document", 0.98, 0.02),
            *placed("query", 0.1, 0.9, variant="fp32"),
            *placed("query", 0.1, 0.9, provider="slow", status="unsupported"),
        ]
    )
    rows = pd.DataFrame(
        [
            {**LABELS, "status": "ok", "reason": "noisy"},
            {**LABELS, "status": "failed", "reason": "it broke"},
            {**LABELS, "kind": "document", "status": "ok", "reason": ""},
            {**LABELS, "variant": "fp32", "status": "ok", "reason": ""},
            {**LABELS, "provider": "slow", "status": "ok", "reason": ""},
        ]
    )
    placement.mark_fallback(rows, table)
    assert rows["reason"].tolist() == [
        "noisy; 3% of the graph's time is on E1; 25% of the graph's time is on E3",
        *("it broke", ""),
        "90% of the graph's time is on E1",
        "",
    ]


def test_operators_are_told_slowest_first_with_their_share():
    found = {
        "operators": {"Add": {"nodes": 2, "ms": 1.0}, "MatMul": {"nodes": 5, "ms": 3.0}},
        **{"graph_ms": 4.5, "gflop": 2.0, "matmul_share": 0.5},
    }
    rows = profile._rows(LABELS, found)
    assert [(row["operator"], row["nodes"], row["ms"], row["share"]) for row in rows] == [
        ("MatMul", 5, 3.0, 0.75),
        ("Add", 2, 1.0, 0.25),
    ]
    assert [(row["graph_ms"], row["matmul_share"], row["kind"]) for row in rows] == [
        (4.5, 0.5, "query")
    ] * 2


def node(name, inputs, output):
    return {
        "args": {
            "op_name": name,
            "input_type_shape": [{"float": shape} for shape in inputs],
            "output_type_shape": [{"float": output}],
        }
    }


def test_the_costliest_product_and_all_operations():
    call = [
        node("MatMul", [[2, 3, 5], [5, 7]], [2, 3, 7]),
        node("Gemm", [[9, 4], [4, 2]], [9, 2]),
        node("Relu", [[99, 99]], [99, 99]),
    ]
    assert operations.largest_product(call) == (6, 5, 7)
    assert operations.largest_product(call[1:]) == (9, 4, 2)
    assert operations.largest_product(call[2:]) is None
    assert operations.operations(call) == 2 * 2 * 3 * 7 * 5 + 2 * 9 * 2 * 4
    attention = node("Attention", [[1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 4]], [1, 2, 3, 4])
    assert operations.operations([attention]) == 4 * (2 * 3 * 4) * 5
    convolution = node("Conv", [[1, 3, 8, 8], [6, 3, 2, 2]], [1, 6, 4, 4])
    assert operations.operations([convolution]) == 2 * (6 * 4 * 4) * (3 * 2 * 2)


@pytest.mark.parametrize(("step", "calls"), [(0.1, 7), (0.005, 12), (1e-4, 100), (3.0, 1)])
def test_calls_in_turns_until_they_are_enough(step, calls, monkeypatch):
    """Seven and three tenths of a second, at most a hundred or ten seconds."""
    order, now = [], iter(np.arange(10**4) * step + 500)
    monkeypatch.setattr(operations.time, "perf_counter", lambda: next(now))
    runs = [lambda: order.append("a"), lambda: order.append("b")]
    found = operations._median_ms(runs)
    assert order[:4] == ["a", "a", "b", "b"]
    assert order[4:] == ["a", "b"] * calls
    assert found == pytest.approx([1e3 * step] * 2)


def test_a_product_to_compare_with_takes_two_billion_operations(monkeypatch):
    made, run = [], Recorder()
    monkeypatch.setattr(operations, "matmul", lambda *sizes: made.append(sizes))
    monkeypatch.setattr(operations, "open_session", lambda *given: SimpleNamespace(run=run))
    operations._matmul_runner(500, 1000, 2)()
    assert made == [(2000, 500, 1000)]


def test_the_first_inputs_in_their_order(tmp_path):
    pages = [PIL.Image.new("RGB", (4, 4), (level, 0, 0)) for level in (1, 2, 3)]
    found = entrants.inputs(SimpleNamespace(queries=list("abc"), documents=pages), 2, tmp_path)
    assert (found.queries, len(found.documents)) == (("a", "b"), 2)
    levels = [PIL.Image.open(file).getpixel((0, 0))[0] for file in found.documents]
    assert levels == [1, 2]
    texts = SimpleNamespace(queries=list("abc"), documents=list("def"))
    passages = entrants.inputs(texts, 2, tmp_path)
    assert passages.documents == ("d", "e")


def test_noise_is_said_on_measured_rows():
    rows = [
        {"status": "ok", "reason": "streamed"},
        {"status": "ok", "reason": ""},
        {"status": "failed", "reason": "it broke"},
    ]
    quiet = {"rows": [dict(row) for row in rows], "noise": {"noisy": False, "reasons": ["x"]}}
    entrants.mark_noise(quiet)
    assert quiet["rows"] == rows
    entrants.mark_noise({"rows": rows, "noise": {"noisy": True, "reasons": ["a", "b"]}})
    assert [row["reason"] for row in rows] == [
        *("streamed; noisy machine: a; b", "noisy machine: a; b"),
        "it broke",
    ]


@pytest.fixture
def contest(monkeypatch, tmp_path):
    """Two variants, and a third whose operator set is too new."""

    def require_opset(provider, opset):
        if opset > 24:
            raise UnsupportedError("too new")

    opsets = {"fp32": 24, "int8": 24, "new": 25}
    folders = {name: str(tmp_path / name) for name in opsets}
    monkeypatch.setattr(
        entrants, "read_manifest", lambda place: SimpleNamespace(opset=opsets[place.split("/")[-1]])
    )
    monkeypatch.setattr(entrants, "require_opset", require_opset)
    monkeypatch.setattr(entrants, "bytes_below", lambda place: 3_000_000_000)
    monkeypatch.setattr(entrants.machine, "available_mb", lambda: 29_000.0)
    asked = []

    def room(folder, memory_mb):
        asked.append((str(folder), memory_mb))
        return SimpleNamespace(allowed_mb=memory_mb, note="streamed")

    monkeypatch.setattr(entrants.Room, "of", room)
    dataset = SimpleNamespace(queries=list("abcdef"), documents=list("uvwxyz"))
    given = ("m", "fast", {"folder": "c", "family": "colbert"}, folders, lambda: dataset, tmp_path)
    return SimpleNamespace(
        of=lambda memory=None, **entry: entrants.Contest(
            *given, {"type": "cpu", "arena": False, **entry}, memory
        ),
        rooms=asked,
        folders=folders,
    )


def test_everyone_has_the_same_threads_and_its_own_folder(contest):
    found, missing = contest.of(6000.0).entrants(5, ["bf16"])
    assert [one.variant for one in found] == ["pytorch", "pytorch-bf16", "fp32", "int8"]
    assert {one.arguments["threads"] for one in found} == {5}
    assert {one.model for one in found} == {"m"}
    assert [(one.provider, one.files, one.note) for one in found[1:3]] == [
        ("torch-cpu", ("c",), "streamed"),
        ("fast", (contest.folders["fp32"],), ""),
    ]
    assert found[3].arguments["folder"] == contest.folders["int8"]
    assert found[3].arguments["provider"] == {"type": "cpu", "arena": False}
    reference = found[0].arguments
    assert {key: reference[key] for key in ("checkpoint", "family", "device", "memory_mb")} == {
        **{"checkpoint": "c", "family": "colbert"},
        **{"device": "cpu", "memory_mb": 6000.0},
    }
    assert "precision" not in reference
    assert found[1].arguments["precision"] == "bf16"
    assert {name: str(why) for name, why in missing.items()} == {"new": "too new"}
    contest.of().entrants(5, ["bf16"])
    assert contest.rooms == [("c", 6000.0), ("c", (29_000 - 3 * 3000) / 2)]


def test_where_no_variant_can_run_pytorch_is_not_measured_either(contest, monkeypatch):
    def require_opset(provider, opset):
        raise UnsupportedError(f"{opset} is too new")

    monkeypatch.setattr(entrants, "require_opset", require_opset)
    found, missing = contest.of(6000.0).entrants(5, ["bf16"])
    assert (found, contest.rooms) == ([], [])
    assert {name: str(why) for name, why in missing.items()} == {
        **{"fp32": "24 is too new", "int8": "24 is too new", "new": "25 is too new"}
    }


def test_latency_is_of_every_kind_and_batch_size(contest, monkeypatch):
    measured = {
        **{"rows": [{"status": "ok", "reason": ""}], "environment": {}},
        "noise": {"noisy": True, "reasons": ["x"]},
    }
    measure = Recorder(measured)
    monkeypatch.setattr(latency, "measure", measure)
    record = latency.compare(contest.of(6000.0), LATENCY, 2, print)
    everyone, inputs, settings, report = measure.arguments
    assert [one.variant for one in everyone] == ["pytorch", "pytorch-bf16", "fp32", "int8"]
    assert {one.arguments["threads"] for one in everyone} == {6}  # the settings' own
    assert (settings.threads, list(settings.batch_sizes), settings.rounds) == (6, [1, 4], 5)
    assert (inputs.queries, inputs.documents, report) == (tuple("abcd"), tuple("uvwx"), print)
    first, *others = record["rows"]
    assert first["reason"] == "noisy machine: x"
    assert record["environment"]["provider_packages"] == {}
    assert [(row["variant"], row["kind"], row["batch_size"], row["reason"]) for row in others] == [
        ("new", kind, size, "too new") for kind in ("query", "document") for size in (1, 4)
    ]
    assert {(row["model"], row["provider"], row["status"]) for row in others} == {
        ("m", "fast", "unsupported")
    }


def test_packages_of_a_provider_in_another_python_are_kept(contest, monkeypatch):
    asked = []

    def run_in(python, function, *arguments):
        asked.append(function)
        return {"onnxruntime-qnn": python}

    monkeypatch.setattr(entrants, "run_in", run_in)
    everyone = contest.of(6000.0, python="/other/python")
    measured = {"rows": [], "environment": {}, "noise": {"noisy": False, "reasons": []}}
    found = everyone.run(lambda *_: measured, "latency", [], count=1, threads=1)
    packages = {"fast": {"onnxruntime-qnn": "/other/python"}}
    assert found["environment"]["provider_packages"] == packages
    assert asked == ["colport.providers.session:require", "colport.base.machine:packages"]


def test_scenarios_are_of_every_kind(contest, monkeypatch):
    measured = {"rows": [], "environment": {}, "noise": {"noisy": False, "reasons": []}}
    measure = Recorder(measured)
    asked = {"run": ["single_stream", "offline", "server"], "inputs": 3}
    asked |= {"offline": {"batch_sizes": [1, 8]}, "server": {"max_batch": 16}}
    monkeypatch.setattr(scenarios.scenarios, "measure", measure)
    record = scenarios.compare(contest.of(6000.0), asked, 2, print)
    everyone, inputs, settings, report = measure.arguments
    assert {one.arguments["threads"] for one in everyone} == {2}
    chosen = ScenarioSettings(**asked, threads=2)
    assert (inputs.queries, settings, report) == (("a", "b", "c"), chosen, print)
    shown = ("kind", "scenario", "batch_size", "best", "status")
    assert [tuple(row[name] for name in shown) for row in record["rows"]] == [
        (kind, name, size, False, "unsupported")
        for kind in ("query", "document")
        for name, size in (("single_stream", 1), ("offline", 8), ("server", 16))
    ]


def test_the_embedder_of_a_folder_whoever_wrote_it(monkeypatch, tmp_path):
    from colport.peers import clients

    ours, theirs = Recorder("ours"), Recorder("theirs")
    monkeypatch.setattr(embedders, "open_encoder", ours)
    monkeypatch.setattr(clients, "load", theirs)
    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "peer.json").write_text("{}")
    assert embedders.load(folder, "cpu", 3) == "theirs"
    assert theirs.arguments == (folder, "cpu", 3)
    assert embedders.load(tmp_path, {"type": "cuda"}, 5) == "ours"
    assert ours.arguments == (tmp_path, {"type": "cuda"}, 5)
    with pytest.raises(UnsupportedError, match="is not run in another provider's environment"):
        embedders.load(folder, {"type": "openvino", "python": "p"})


class Whole:
    """A peer's embedder that takes a batch of either kind, or of queries alone."""

    def __init__(self, fails=None):
        self.fails, self.asked = fails, []

    def _encode(self, kind, items, batch_size):
        self.asked.append((kind, list(items), batch_size))
        if kind == self.fails:
            raise PeerError("its words")

    def encode_queries(self, items, batch_size):
        self._encode("query", items, batch_size)

    def encode_documents(self, items, batch_size):
        self._encode("document", items, batch_size)


@pytest.mark.parametrize("fails", [None, "query", "document"])
def test_both_kinds_are_tried_in_a_whole_batch(fails):
    embedder, dataset = Whole(fails), SimpleNamespace(queries=list("abc"), documents=list("def"))
    found = embedders.usable_batch(embedder, dataset, 2)
    alone = (1, "embedded one by one, since in batches of 2: its words")
    assert found == (alone if fails else (2, ""))
    assert embedder.asked[0] == ("query", ["a", "b"], 2)
    if fails != "query":
        assert embedder.asked[1] == ("document", ["d", "e"], 2)
    ours = SimpleNamespace(manifest=SimpleNamespace(digest="d"))
    assert embedders.usable_batch(ours, dataset, 2) == (2, "")
    assert (embedders.digest(ours), embedders.digest(embedder)) == ("d", None)


def test_an_encoder_runs_in_the_python_of_its_entry(monkeypatch):
    import colport.runtime.encoder

    here, there = Recorder("here"), Recorder("there")
    monkeypatch.setattr(colport.runtime.encoder, "Encoder", here)
    monkeypatch.setattr(remote, "RemoteEncoder", there)
    entry = {"type": "openvino", "device": "CPU"}
    assert remote.open_encoder("folder", entry, 3) == "here"
    assert here.arguments == ("folder", entry, 3)
    assert remote.open_encoder("folder", {**entry, "python": "other"}, 5) == "there"
    assert there.arguments == ("folder", entry, "other", 5)


def test_a_function_in_this_python_is_called_as_it_is():
    assert remote.run_in(None, "builtins:sorted", [2, 3, 1], reverse=True) == [3, 2, 1]


def test_the_other_side_answers_each_kind_of_request():
    server = remote._Server()

    def ask(do, name="", *arguments, **settings):
        return server.answer({"do": do, "name": name, "arguments": arguments, "settings": settings})

    assert ask("begin") == {"result": None}
    assert ask("make", "fractions:Fraction", 3, denominator=4) == {"result": None}
    assert ask("method", "limit_denominator", 1) == {"result": 1}
    assert ask("method", "numerator") == {"result": 3}
    assert ask("call", "builtins:sorted", [1, 2], reverse=True) == {"result": [2, 1]}
    wrong = ask("call", "builtins:int", "x")
    assert wrong["error"] == "RuntimeError"
    assert wrong["reason"].startswith("ValueError: invalid literal")
    limit = ask("call", "colport.peers.catalogue:get", "none")
    assert limit["error"] == "ConfigError"
    assert limit["reason"].startswith("peer: 'none' is unknown")
