"""The parts of a peer's export and of its clients: two programs, graphs, files of weights."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from colport.base.errors import ConfigError, PeerError, RunError, UnsupportedError
from colport.base.files import read_json, write_json
from colport.peers import catalogue, clients, environments, export, torch_onnx
from colport.peers.catalogue import PeerVariant

COPY = "import shutil, sys; print(sys.argv[2]); shutil.copy(sys.argv[1], sys.argv[2])"


def save_graph(file, inputs=("input_ids",), outputs=1):
    """A graph that gives the sum of its inputs, once for each output, and another beside it."""
    given = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in inputs]
    made = [helper.make_tensor_value_info(f"o{i}", TensorProto.INT64, None) for i in range(outputs)]
    nodes = [helper.make_node("Sum", list(inputs), [value.name]) for value in made]
    if len(inputs) == 2:
        nodes = [helper.make_node("Sub", list(inputs), [value.name]) for value in made]
    elif len(inputs) == 1:
        nodes = [helper.make_node("Identity", list(inputs), [value.name]) for value in made]
    graph = helper.make_graph(nodes, "g", given, made)
    opsets = [helper.make_opsetid("other", 3), helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), file)
    return file


def two_programs(**settings):
    copy = ("{bin}/python", "-c", COPY)
    return PeerVariant(
        name="peer-fake",
        peer="fake",
        programs={
            "pages": [
                (*copy, "{base}/a.onnx", "{output}/text/model.onnx"),
                (*copy, "{base}/b.onnx", "{output}/image/model.onnx"),
            ]
        },
        graphs={"pages": {"text": "text/model.onnx", "image": "image/model.onnx"}},
        clients={"pages": "processor"},
        **settings,
    )


def test_every_program_runs_and_every_graph_is_described(tmp_path):
    base, output, log = tmp_path / "base", tmp_path / "peer", tmp_path / "log"
    base.mkdir()
    save_graph(base / "a.onnx")
    save_graph(base / "b.onnx", outputs=2)
    (tmp_path / "checkpoint").mkdir()
    found = export.export(
        two_programs(),
        output,
        resolved={"family": "colpali", "folder": str(tmp_path / "checkpoint")},
        installed={"folder": str(Path(sys.executable).parents[1]), "status": "ok"},
        base=base,
        timeout_s=60,
        log=log,
    )
    programs = two_programs().programs["pages"]
    assert [one["program"] for one in found["programs"]] == [" ".join(one) for one in programs]
    assert [one["code"] for one in found["programs"]] == [0, 0]
    assert {name: (one["nodes"], one["opset"]) for name, one in found["graphs"].items()} == {
        "text": (1, 17),
        "image": (2, 17),
    }
    said = log.read_text().split()
    assert [Path(line).parent.name for line in said] == ["text", "image"]
    record = read_json(output / "peer.json")
    record.pop("schema_version")
    assert record == {
        "variant": "peer-fake",
        "family": "colpali",
        "client": "processor",
        "graphs": {"text": "text/model.onnx", "image": "image/model.onnx"},
        "checkpoint": str(tmp_path / "checkpoint"),
    }


def test_weights_in_two_files_count(tmp_path):
    tensors = []
    places = {"a": ((2, 3), "a.data", 0), "b": ((5,), "b.data", 0), "d": ((4,), "a.data", 24)}
    for name, (shape, place, offset) in places.items():
        tensor = numpy_helper.from_array(np.ones(shape, np.float32), name)
        with (tmp_path / place).open("ab") as stream:
            stream.write(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, place, offset)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensors.append(tensor)
    tensors.append(numpy_helper.from_array(np.ones(7, np.float32), "c"))
    graph = helper.make_graph([], "g", [], [], tensors)
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    found = export._figures(file)
    size = file.stat().st_size + 4 * (6 + 5 + 4)
    named = {key: found[key] for key in ("parameters", "nodes", "size_bytes", "weight_files")}
    assert named == {"parameters": 22, "nodes": 0, "size_bytes": size, "weight_files": 2}


def test_folders_are_made_for_what_is_to_be_written(tmp_path):
    out = str(tmp_path / "out")
    command = ["python", f"{out}/text/model.onnx", f"{out}/image", out, "/elsewhere/x"]
    found = export._outputs(command, tmp_path / "out")
    assert found == [tmp_path / "out/text", tmp_path / "out/image"]


def test_only_our_own_program_finds_this_library(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "ours")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("KEPT", "theirs")
    theirs = export._variables(["python", "-m", "colport.peers"])
    ours = export._variables(["python", "-m", "colport.peers.torch_onnx"])
    assert "PYTHONPATH" not in theirs
    assert ours["PYTHONPATH"] == str(export.LIBRARY)
    for found in (theirs, ours):
        kept = {key: found.get(key) for key in ("HF_HUB_OFFLINE", "PYTHONIOENCODING", "KEPT")}
        assert kept == {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8", "KEPT": "theirs"}
        assert "PYTHONHOME" not in found


def test_words_are_cut_where_they_are_too_long():
    assert export.words("x" * 300) == "x" * 300
    assert export.words("x" * 301) == "x" * 300 + "…"
    assert export.words("a line\n<class 'a.B'> said so\nlast") == "<class 'a.B'> said so"
    assert export.words("Error: two  blanks") == "Error: two blanks"


def test_what_a_peer_says_while_it_is_killed_is_no_limit(tmp_path):
    peer = two_programs(limits=("first limit", "second limit"))
    end = "import os; print('the second limit', flush=True); "
    for last, error in (("os.kill(os.getpid(), 9)", PeerError), ("exit(3)", UnsupportedError)):
        with pytest.raises(PeerError if error is PeerError else UnsupportedError) as caught:
            export._run([sys.executable, "-c", end + last], peer, 60, tmp_path / "log")
        assert caught.type is error
    assert str(caught.value) == "fake: the second limit"


def test_a_peer_without_an_export_has_a_row():
    labels = {"model": "m", "variant": "peer-fake", "family": "colpali"}
    installed = {"python": "3", "packages": {"a": "1"}, "requirements": "digest", "folder": "x"}
    for error in (PeerError("its error"), UnsupportedError("a limit")):
        record = export.not_exported(labels, error, installed)
        (row,) = record["rows"]
        assert (row["status"], row["reason"], row["graph"]) == (error.status, str(error), "")
        assert (row["model"], row["variant"]) == ("m", "peer-fake")
        kept = ("python", "packages", "requirements")
        assert record["peer"] == {key: installed[key] for key in kept}


def test_the_catalogue_by_peer_and_by_name():
    names = ["peer-optimum", "peer-optimum-int8", "peer-onnxruntime-tools"]
    assert catalogue.of(["onnxruntime-tools", "optimum"]) == names
    assert catalogue.of([]) == []
    assert [catalogue.get(name).name for name in names] == names
    with pytest.raises(ConfigError, match="'optimum' is unknown; allowed are peer-optimum, peer-o"):
        catalogue.get("optimum")
    assert catalogue.get("peer-onnxruntime-tools").base == "peer-torch-onnx-torchscript"
    assert catalogue.get("peer-optimum-int8").tolerance == {"min_cosine": 0.85}


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("input_ids", (2, 3), {0: "batch", 1: "tokens"}),
        ("attention_mask", (2, 3), {0: "batch", 1: "tokens"}),
        ("token_type_ids", (2, 3), {0: "batch", 1: "tokens"}),
        ("pixel_values", (2, 3, 4, 4), {0: "batch"}),
        ("pixel_values", (2, 3), {0: "pixel_values_rows"}),
        ("image_grid_thw", (2, 3), {0: "image_grid_thw_rows"}),
        ("other", (2, 3, 4, 4), {0: "other_rows"}),
    ],
)
def test_axes_that_change_from_call_to_call(name, shape, axes):
    assert torch_onnx._dynamic(name, torch.zeros(shape)) == axes


@pytest.mark.parametrize("mode", torch_onnx.MODES)
def test_the_exporter_is_told_every_axis_that_changes(mode, tmp_path, monkeypatch):
    asked = []
    features = {"input_ids": torch.zeros(2, 5), "pixel_values": torch.zeros(2, 3, 4, 4)}
    graphs = [("image", torch.nn.Identity(), features)]
    monkeypatch.setattr(torch_onnx, "_graphs", lambda checkpoint: graphs)
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **named: asked.append((given, named)))
    torch_onnx.export(mode, tmp_path, tmp_path / "out")
    (((_, inputs, file), named),) = asked
    assert file == tmp_path / "out/image/model.onnx"
    assert [*map(id, inputs)] == [*map(id, features.values())]
    assert named.pop("input_names") == [*features]
    assert named.pop("output_names") == ["output"]
    every = {0: "batch", 1: "tokens"}
    axes = {"input_ids": every, "pixel_values": {0: "batch"}, "output": every}
    auto = torch.export.Dim.AUTO
    assert (
        named
        == {
            "torchscript": {"dynamo": False, "dynamic_axes": axes},
            "dynamo": {"dynamo": True, "dynamic_shapes": (({0: auto, 1: auto}, {0: auto}),)},
        }[mode]
    )


def test_a_module_takes_its_tensors_by_place():
    class Module(torch.nn.Module):
        def forward(self, a, b):
            return SimpleNamespace(embeddings=a - b)

    class Sequence(torch.nn.Module):
        def encode_query(self):
            pass

        def forward(self, features):
            return {"token_embeddings": features["b"] - features["a"]}

    one, two = torch.ones(1), torch.full((1,), 3.0)
    assert torch_onnx._Positional(Module(), ["b", "a"])(one, two).item() == 2.0
    assert torch_onnx._Positional(Sequence(), ["a", "b"])(one, two).item() == 2.0
    plain = torch_onnx._Positional(torch.nn.Identity(), ["input"])
    assert plain(two).item() == 3.0
    assert not plain.training


@pytest.mark.parametrize("threads", [None, 3])
def test_a_session_has_the_threads_asked_for(threads, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    graph = clients._Graph(save_graph(tmp_path / "a.onnx"), threads)
    options = graph._session.get_session_options()
    assert options.intra_op_num_threads == (threads or 0)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert graph._session.get_providers() == ["CPUExecutionProvider"]


def test_a_graph_gets_its_own_inputs_and_gives_its_first_output(tmp_path):
    both = ("input_ids", "token_type_ids")
    graph = clients._Graph(save_graph(tmp_path / "a.onnx", both, outputs=2), None)
    feeds = {"input_ids": np.array([[5, 7]]), "attention_mask": np.array([[1, 1]])}
    np.testing.assert_array_equal(graph.run(feeds), [[5, 7]])
    typed = {**feeds, "token_type_ids": np.array([[1, 2]])}
    np.testing.assert_array_equal(graph.run(typed), [[4, 5]])
    with pytest.raises(PeerError, match="ONNX Runtime, running the graph: "):
        graph.run({"input_ids": np.array([1.5])})
    (tmp_path / "b.onnx").write_text("none")
    with pytest.raises(PeerError, match=r"b\.onnx: ONNX Runtime cannot load it \("):
        clients._Graph(tmp_path / "b.onnx", None)


def test_rows_of_another_length_are_normalised_and_others_left():
    rows = np.array([[[3.0, 4.0], [0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(clients._normalised(rows), [[[0.6, 0.8], [0, 0]]])
    unit = np.array([[[0.6, 0.8005]]], np.float32)
    assert clients._normalised(unit) is unit


class Counting(clients.Client):
    def __init__(self, *given):
        self.given = given
        self.batches = []

    def embed(self, kind, inputs):
        self.batches.append((kind, list(inputs)))
        rows = np.arange(len(inputs) * 4, dtype=np.float32).reshape(len(inputs), 2, 2)
        return rows, np.array([[True, index % 2 == 0] for index in range(len(inputs))])


def test_a_client_embeds_batch_by_batch():
    client = Counting()
    found = client._encode(["a", "b", "c"], "query", 2)
    assert client.batches == [("query", ["a", "b"]), ("query", ["c"])]
    assert [len(rows) for rows in found] == [2, 1, 2]
    np.testing.assert_array_equal(found[1], [[4, 5]])


def test_a_folder_is_run_by_the_client_that_it_names(monkeypatch, tmp_path):
    monkeypatch.setattr(clients, "CLIENTS", {"one": Counting, "other": None})
    write_json(tmp_path / "peer.json", {"client": "one"})
    folder, record, threads = clients.load(tmp_path, threads=3).given
    assert (folder, record["client"], threads) == (tmp_path, "one", 3)
    assert clients.load(tmp_path).given[2] is None
    assert catalogue.is_folder(tmp_path)
    assert not catalogue.is_folder(tmp_path.parent)


def test_pages_and_queries_have_a_graph_each(monkeypatch, tmp_path):
    from PIL import Image

    save_graph(tmp_path / "text.onnx")
    save_graph(tmp_path / "image.onnx", ("input_ids", "attention_mask"))
    asked = []

    class Processor:
        def features(self, items):
            asked.append(items)
            ids, mask = torch.tensor([[5, 7]]), torch.tensor([[1, 0]])
            return {"input_ids": ids, "attention_mask": mask}

        process_queries = process_images = features

    def get(name):
        return SimpleNamespace(processor=lambda folder: asked.append((name, folder)) or Processor())

    monkeypatch.setattr(clients.registry, "get", get)
    record = {
        **{"family": "colqwen2", "checkpoint": str(tmp_path)},
        "graphs": {"text": "text.onnx", "image": "image.onnx"},
    }
    client = clients.ProcessorClient(tmp_path, record, 1)
    rows, keep = client.embed("query", ("a",))
    np.testing.assert_array_equal(rows, [[5, 7]])
    np.testing.assert_array_equal(keep, [[True, False]])
    rows, _ = client.embed("document", (Image.new("L", (2, 2)),))
    np.testing.assert_array_equal(rows, [[4, 7]])
    assert asked[:2] == [("colqwen2", tmp_path), ["a"]]
    assert [page.mode for page in asked[2]] == ["RGB"]


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("ERROR: No matching distribution found for a==1", "No matching distribution found for a="),
        (
            "x\nERROR: a.whl is not a supported wheel on this platform.\n",
            "a.whl is not a supported",
        ),
        ("ERROR: Package 'a' requires a different Python: 3.9", "Package 'a' requires a different"),
        ("no ERROR: No matching distribution found for a", None),
    ],
)
def test_why_a_package_cannot_be_here(output, found, monkeypatch, tmp_path):
    from colport.processes.child import ChildError

    class Ends:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            error = ChildError("ended")
            error.output = output
            raise error

    monkeypatch.setattr(environments, "Child", Ends)
    file = tmp_path / "set.txt"
    if found is None:
        with pytest.raises(RunError, match=r"set\.txt: pip ended"):
            environments._install(file, tmp_path / "env")
        return
    reason = environments._install(file, tmp_path / "env")
    assert reason.startswith(f"set.txt cannot be installed here: {found}")


def test_the_environment_that_runs_this():
    found = environments.own()
    assert found["folder"] == str(Path(sys.executable).parents[1])
    assert (found["status"], found["reason"]) == ("ok", "")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == np.__version__
