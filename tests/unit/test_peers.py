"""Peers: how they are asked, what is recorded of them, and clients of what they write."""

import json
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from colport.base.errors import PeerError, RunError, UnsupportedError
from colport.base.files import check_supported, read_json, write_unsupported
from colport.base.names import PEER_PREFIX
from colport.measure import embedders
from colport.peers import catalogue, clients, environments, export
from colport.peers.catalogue import PeerVariant
from colport.pipeline.gate import check, failures
from colport.pipeline.plan import Plan
from colport.processes.child import Child
from colport.tables.recommendation import recommend

ROOT = Path(__file__).parents[2]
OWN = {"folder": str(Path(sys.executable).parents[1]), "status": "ok", "reason": ""}
MAKE_GRAPH = """
    import sys
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    import numpy as np

    tables = np.random.default_rng(0).standard_normal((30522, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["output"])],
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "tokens", 8])],
        [numpy_helper.from_array(tables, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
              sys.argv[1])
"""


def a_peer(code: str, *, client: str = "tokens", **settings) -> PeerVariant:
    """A peer whose program is this Python."""
    program = ("{bin}/python", "-c", textwrap.dedent(code), "{output}/text/model.onnx")
    return PeerVariant(
        name="peer-fake",
        peer="fake",
        programs={"passages": (program,)},
        graphs={"passages": {"text": "text/model.onnx"}},
        clients={"passages": client},
        **settings,
    )


def test_float_graphs_that_were_quantized_do_not_count(tmp_path):
    for name in ("model.onnx", "model.onnx.data", "model_int8.onnx", "tokenizer.json"):
        (tmp_path / name).write_text("content")
    export._drop_others(tmp_path, [tmp_path / "model_int8.onnx"])
    assert {file.name for file in tmp_path.iterdir()} == {"model_int8.onnx", "tokenizer.json"}


def ask(peer: PeerVariant, checkpoint: Path, output: Path, installed=OWN, base=None, timeout_s=60):
    record = {"family": "colbert", "folder": str(checkpoint)}
    return export.export(
        peer,
        output,
        resolved=record,
        installed=installed,
        base=base,
        timeout_s=timeout_s,
        log=output.parent / "log",
    )


def test_the_schema_allows_the_peers_of_the_catalogue():
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    run = schema["properties"]["run"]["properties"]
    assert tuple(run["peers"]["items"]["enum"]) == catalogue.PEERS
    assert run["peers"]["default"] == []


def test_every_environment_is_pinned_with_hashes_and_without_an_index():
    for name in {peer.environment for peer in catalogue.VARIANTS.values()} - {""}:
        text = (ROOT / f"envs/peers/{name}.txt").read_text()
        pins = [line for line in text.splitlines() if line[:1].isalnum()]
        assert pins, name
        assert all("==" in line and line.endswith("\\") for line in pins), name
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text


def test_every_peer_is_complete():
    for name, peer in catalogue.VARIANTS.items():
        assert name.startswith(PEER_PREFIX)
        assert set(peer.programs) == set(peer.graphs) == set(peer.clients) == {"pages", "passages"}
        assert set(peer.clients.values()) <= set(clients.CLIENTS)
        assert not peer.base or peer.base in catalogue.VARIANTS
        assert peer.tolerance


def test_integers_of_a_peer_have_a_scale_a_channel_as_ours():
    quantized = [
        program
        for peer in catalogue.VARIANTS.values()
        for programs in peer.programs.values()
        for program in programs
        if "quantize" in program
    ]
    assert quantized
    assert all("--per_channel" in program for program in quantized)


def test_an_export_is_measured_and_runs(checkpoint_folders, tmp_path):
    checkpoint, output = checkpoint_folders["colbert"], tmp_path / "peer"
    exported = ask(a_peer(MAKE_GRAPH), checkpoint, output)
    labels = {"model": "m", "variant": "peer-fake", "family": "colbert"}
    record = export.record(labels, exported, output, OWN)
    (row,) = record["rows"]
    assert (row["status"], row["opset"], row["nodes"]) == ("ok", 20, 1)
    assert row["parameters"] == 30522 * 8
    assert row["folder_bytes"] > row["size_bytes"] > 4 * row["parameters"]
    assert 0 < row["seconds"] < 60
    assert row["peak_rss_mb"] > 10
    client = embedders.load(output, "cpu", threads=1)
    (query,) = client.encode_queries(["a query"])
    documents = client.encode_documents(["short", "a longer one"], batch_size=2)
    assert query.shape == (32, 8)  # expanded, as the checkpoint's library does
    assert len(documents[0]) < len(documents[1])
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, atol=1e-6)
    assert embedders.digest(client) is None
    with pytest.raises(UnsupportedError, match="peers run on cpu only, not on cuda"):
        embedders.load(output, "cuda")


def test_what_an_export_cost_is_that_of_all_its_programs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.onnx", "sub/b.json"):
        (tmp_path / name).write_bytes(b"12345")
    programs = [{"seconds": 2.0, "peak_rss_mb": 30.0}, {"seconds": 3.0, "peak_rss_mb": 20.0}]
    graphs = {"text": {"nodes": 1}, "image": {"nodes": 2}}
    labels = {"model": "m", "variant": "peer-fake", "family": "colpali"}
    exported = {"programs": programs, "graphs": graphs}
    record = export.record(labels, exported, tmp_path, {**OWN, "python": "3.11"})
    shown = ("graph", "nodes", "seconds", "peak_rss_mb", "folder_bytes")
    assert [[row[name] for name in shown] for row in record["rows"]] == [
        ["text", 1, 5.0, 30.0, 10],
        ["image", 2, 5.0, 30.0, 10],
    ]
    assert record["peer"] == {"python": "3.11", "packages": None, "requirements": None}


@pytest.mark.parametrize(
    ("code", "settings", "error", "message"),
    [
        (
            "raise ValueError('no such layer')",
            {},
            PeerError,
            "^fake: ended with exit code 1; last output: ValueError: no such layer$",
        ),
        ("print('fine')", {}, PeerError, "ended without an error, but wrote no text/model.onnx"),
        (
            "raise KeyError('Unrecognized configuration class X')",
            {"limits": (r"Unrecognized configuration class",)},
            UnsupportedError,
            "Unrecognized configuration class X",
        ),
        (
            "import os; print('words', flush=True); os.kill(os.getpid(), 9)",
            {},
            PeerError,
            r"^fake: killed by SIGKILL \(often: out of memory\) at \d+ MiB; last output: words$",
        ),
        (
            "import sys; open(sys.argv[1], 'w').write('no graph')",
            {},
            PeerError,
            "model.onnx: is not an ONNX file",
        ),
    ],
)
def test_a_failure_is_its_own_words(checkpoint_folders, tmp_path, code, settings, error, message):
    output = tmp_path / "peer"
    with pytest.raises(error, match=message) as raised:
        ask(a_peer(code, **settings), checkpoint_folders["colbert"], output)
    assert raised.type is error
    assert not output.exists()


def test_a_peer_that_hangs_is_ended_with_what_it_started(checkpoint_folders, tmp_path):
    file = tmp_path / "child"
    code = f"""
        import subprocess, time
        child = subprocess.Popen(["sleep", "60"])
        open({str(file)!r}, "w").write(str(child.pid))
        time.sleep(60)
    """
    with pytest.raises(PeerError, match=r"fake: did not answer within 6 s \(timeout_s\)"):
        ask(a_peer(code), checkpoint_folders["colbert"], tmp_path / "peer", timeout_s=6)
    status = Path(f"/proc/{file.read_text()}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_a_base_that_failed_is_the_reason(checkpoint_folders, tmp_path):
    base = tmp_path / "base"
    write_unsupported(base, "torch-onnx: its error", PeerError.status)
    with pytest.raises(PeerError, match="torch-onnx: its error"):
        ask(a_peer(MAKE_GRAPH), checkpoint_folders["colbert"], tmp_path / "peer", base=base)


def test_a_failed_folder_stays_failed(tmp_path):
    write_unsupported(tmp_path / "peer", "its words", PeerError.status)
    with pytest.raises(PeerError, match="its words"):
        embedders.load(tmp_path / "peer", "cpu")
    write_unsupported(tmp_path / "ours", "a limit")
    with pytest.raises(UnsupportedError) as raised:
        check_supported(tmp_path / "ours")
    assert raised.type is UnsupportedError


def test_the_last_line_that_names_an_error_is_quoted():
    output = "ImportError: first\nTraceback\n  x\ntorch.onnx.ConversionError: second\n\nmore help\n"
    assert export.words(output) == "torch.onnx.ConversionError: second"
    assert export.words("only\nthis\n") == "this"
    assert export.words("") == "no message"


class Fails:
    """An embedder whose graph runs single inputs only."""

    def encode_queries(self, queries, batch_size=8):
        if len(queries) > 1:
            raise PeerError("Shape mismatch")
        return [np.ones((2, 2), np.float32)]

    encode_documents = encode_queries


class Dataset:
    queries = ("a", "b")
    documents = ("c", "d")


def test_a_graph_for_single_inputs_is_embedded_one_by_one_and_says_so():
    size, note = embedders.usable_batch(Fails(), Dataset, 2)
    assert (size, note) == (1, "embedded one by one, since in batches of 2: Shape mismatch")


def test_pylate_files_are_read_as_next_plaid_does(checkpoint_folders, tmp_path):
    from tokenizers import Tokenizer

    checkpoint, output = checkpoint_folders["colbert"], tmp_path / "peer"
    ask(a_peer(MAKE_GRAPH), checkpoint, output)
    config = {
        **{"query_prefix": "[unused0]", "document_prefix": "[unused1]"},
        **{"query_length": 8, "document_length": 14, "do_query_expansion": False},
        **{"skiplist_words": [".", "absent word"], "uses_token_type_ids": False},
        **{"mask_token_id": 103, "pad_token_id": 0},
    }
    record = {**read_json(output / "peer.json"), "client": "pylate"}
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))

    def lengths(kind, texts, **changed):
        (output / "config_sentence_transformers.json").write_text(json.dumps(config | changed))
        client = clients.PylateClient(output, record, 1)
        encode = client.encode_queries if kind == "query" else client.encode_documents
        return [len(rows) for rows in encode(texts)]

    words = len(tokenizer.encode("[unused1]a dot").ids)
    assert words < 14
    assert lengths("document", ["a dot."]) == [words]  # the full stop is skipped
    assert lengths("query", ["a dot", "a"]) == [words, words - 1]
    assert lengths("query", ["a dot"], do_query_expansion=True) == [8]
    assert lengths("document", ["one two three four five six seven eight"]) == [14]
    tokenizer.enable_padding()  # a file may say so itself: what it fills up is no word
    tokenizer.save(str(output / "tokenizer.json"))
    assert lengths("query", ["a dot", "a"]) == [words, words - 1]
    assert lengths("query", ["a dot", "a"], do_query_expansion=True) == [8, 8]


def test_peers_run_beside_the_variants_on_cpus_only():
    run = {"variants": ["int8"], "providers": ["cpu", "cuda"], "peers": ["optimum"]}
    config = {
        "run": {"models": [], "embeddings": [], **run},
        "variants": {"fp32": {}, "int8": {"base": "fp32"}},
        **{"models": {}, "datasets": {}, "scenarios": {"run": []}},
        **{"retrieval": {"mteb": False}, "latency": {"profile": False}},
    }
    plan, of = Plan(config, ROOT), catalogue.of(["optimum"])
    assert len(of) == 2
    assert plan.entrants() == plan.entrants("cpu") == ["int8", "fp32", *of]
    assert plan.entrants("cuda") == ["int8", "fp32"]
    on_cpu = [(name, "cpu") for name in plan.entrants("cpu")]
    assert plan.runs == [*on_cpu, ("int8", "cuda"), ("fp32", "cuda")]


def test_peers_neither_fail_the_run_nor_are_recommended():
    row = {"model": "m", "provider": "cpu", "status": "failed", "reason": "its error"}
    table = pd.DataFrame([{**row, "variant": "peer-optimum"}])
    names = ("export", "parity", "retrieval", "latency")
    assert failures(table) == []
    assert check(dict.fromkeys(names, table), allow_failed_parity=False) == []
    figures = {
        **{"provider": "cpu", "verdict": "", "recommended": False, "parity_passed": True},
        **{"ndcg_at_5": 0.9, "ndcg_at_5_delta": 0.0, "p_value": 1.0, "document_speedup": 2.0},
    }
    ours = {**figures, "variant": "fp32", "size_mb": 2.0, "document_p50_ms": 2.0}
    peer = {**figures, "variant": "peer-optimum", "size_mb": 1.0, "document_p50_ms": 1.0}
    peer["ndcg_at_5"] = 0.95
    recommend([ours, peer])
    assert ours["recommended"]
    assert (peer["recommended"], peer["verdict"]) == (False, "peer")


FAKE = """
import pathlib, shutil, sys
if sys.argv[2] == "venv":
    folder = pathlib.Path(sys.argv[-1], "bin")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "python")
elif sys.argv[1] == "-c":
    print('{"python": "3", "packages": {"nothing": "1"}}')
else:
"""


def test_peers_are_grey_and_keep_their_marks_from_ours():
    from colport.report.charts.marks import Legend

    marks = Legend(["pytorch", "fp32", "peer-optimum", "int8", "peer-torch-onnx-dynamo"])
    ours = Legend(["pytorch", "fp32", "int8"])
    assert {name: marks[name] for name in ours} == ours
    many = [(mark.shape, mark.colour) for mark in Legend(map(str, range(56))).values()]
    assert len(set(many)) == 56
    assert ours["pytorch"].colour not in {colour for _, colour in many}
    peers = [marks["peer-optimum"], marks["peer-torch-onnx-dynamo"]]
    assert {mark.colour for mark in peers} == {ours["pytorch"].colour}
    assert len({mark.shape for mark in peers}) == 2


def fake_pip(tmp_path, monkeypatch, output: str, code: int) -> Path:
    """Python whose ``-m venv`` makes a folder in which pip says this and ends so."""
    requirements = tmp_path / "set.txt"
    requirements.write_text("nothing==1 \\\n")
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{FAKE}    print({output!r}); sys.exit({code})\n")
    script.chmod(0o755)
    monkeypatch.setattr(environments.sys, "executable", str(script))
    return requirements


def test_an_environment_is_made_once_for_a_set(tmp_path, monkeypatch):
    requirements, said = fake_pip(tmp_path, monkeypatch, "installed", 0), []
    first = environments.build(requirements, tmp_path / "env", said.append)
    assert (first["status"], first["packages"]) == ("ok", {"nothing": "1"})
    assert environments.build(requirements, tmp_path / "env", said.append) == first
    requirements.write_text("nothing==2 \\\n")
    again = environments.build(requirements, tmp_path / "env", said.append)
    assert again["requirements"] != first["requirements"]
    assert len(said) == 2


def test_an_environment_is_made_without_the_variables_of_this_python(tmp_path, monkeypatch):
    given = []

    class Records:
        def __init__(self, program, environment=None):
            given.append((program, environment))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            (tmp_path / "env").mkdir(exist_ok=True)

        def output(self):
            return 'a warning of theirs\n{"python": "3", "packages": {}}'

    monkeypatch.setenv("PYTHONPATH", "ours")
    monkeypatch.setenv("PIP_INDEX_URL", "the user's")
    monkeypatch.setattr(environments, "Child", Records)
    (tmp_path / "set.txt").write_text("nothing==1 \\\n")
    environments.build(tmp_path / "set.txt", tmp_path / "env", print)
    (venv, first), (pip, second), _ = given
    assert (venv[1:3], pip[1:3]) == (("-m", "venv"), ("-m", "pip"))
    assert "--require-hashes" in pip
    for environment in (first, second):
        assert environment["PIP_INDEX_URL"] == "the user's"
        assert not any(name.startswith("PYTHON") for name in environment)


def test_what_does_not_exist_for_this_python_is_unsupported(tmp_path, monkeypatch):
    said = "ERROR: No matching distribution found for onnxruntime==1.19.2"
    requirements = fake_pip(tmp_path, monkeypatch, said, 1)
    record = environments.build(requirements, tmp_path / "env", print)
    assert record["status"] == "unsupported"
    assert "No matching distribution found for onnxruntime==1.19.2" in record["reason"]
    peer = a_peer(MAKE_GRAPH)
    with pytest.raises(UnsupportedError, match="cannot be installed here"):
        ask(peer, tmp_path, tmp_path / "peer", installed=record)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("WARNING: Retrying (Retry(total=4)) after NewConnectionError", "cannot reach the package"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES",
            "pip ended with exit code 1; last output: ERROR: THESE",
        ),
    ],
)
def test_our_own_trouble_is_loud(tmp_path, monkeypatch, said, message):
    requirements = fake_pip(tmp_path, monkeypatch, said, 1)
    with pytest.raises(RunError, match=message):
        environments.build(requirements, tmp_path / "env", print)


@pytest.mark.skipif(
    "COLPORT_BUILD_PEERS" not in os.environ,
    reason="builds an environment over the network; set COLPORT_BUILD_PEERS=1",
)
def test_a_real_environment(tmp_path):
    requirements = ROOT / "envs/peers/onnxruntime-tools.txt"
    record = environments.build(requirements, tmp_path / "env", print)
    assert record["packages"]["onnxruntime-tools"] == "1.7.0"
    program = [f"{record['folder']}/bin/python", "-m", "onnxruntime_tools.optimizer_cli", "--help"]
    with Child(program) as child:
        child.wait(60)
