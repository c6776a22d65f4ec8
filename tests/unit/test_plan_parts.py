"""What rules read from a config with two of everything; how a folder is proved and described."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from colport.base.errors import ConfigError, ExportError, ParityError, RunError
from colport.folder import graphs
from colport.folder.manifest import GraphInfo, Manifest
from colport.pipeline import gate, proof, variants
from colport.pipeline.job import job
from colport.pipeline.plan import TABLES, Plan, _check_quantized
from colport.tensors.external_data import Layout
from tests.conftest import ROOT
from tests.unit.test_job_arguments import Recorder

INT8 = {"precision": "int8", "base": "fp32", "tolerance": {"min_cosine": 0.9}}
CONFIG = {
    "run": {
        **{"models": ["texts", "pages", "others"], "variants": ["int8", "fp16", "int4"]},
        **{"providers": ["cpu", "fast"], "peers": ["torch-onnx"], "embeddings": ["half"]},
    },
    "models": {
        "texts": {"family": "colbert", "datasets": ["a", "b"]},
        "pages": {"family": "colpali", "datasets": ["c", "a"], "calibration": "d"},
        "others": {"family": "colqwen2", "datasets": ["d"]},
        "unused": {"family": "colbert", "datasets": ["e"]},
    },
    "variants": {
        **{"fp32": {}, "fp16": {}, "int8": INT8, "bf16": {}},
        "int4": {"precision": "int4", "base": "fp16", "quantization": {"method": "weight_only"}},
    },
    "datasets": {},
    "embeddings": {"half": {"storage": "float16"}, "binary": {"storage": "binary"}},
    "retrieval": {"mteb": True, "seed": 4, "min_agreement": 0.8},
    "latency": {"profile": True, "rounds": 5},
    "scenarios": {"run": ["server"]},
    "encode": {"shard_documents": 10},
}


def test_a_plan_of_two_models_and_two_providers():
    plan = Plan(CONFIG, ROOT)
    assert plan.pairs == [
        *(("texts", "a"), ("texts", "b"), ("pages", "c"), ("pages", "a")),
        ("others", "d"),
    ]
    assert plan.datasets == ["a", "b", "c", "d"]
    assert plan.variants == ["int8", "fp16", "int4", "fp32"]
    assert (plan.quantized, plan.exported) == (["int8", "int4"], ["fp16", "fp32"])
    peers = ["peer-torch-onnx-torchscript", "peer-torch-onnx-dynamo"]
    assert plan.peers == peers
    on_cpu = [(name, "cpu") for name in (*plan.variants, *peers)]
    assert plan.runs == [*on_cpu, *((name, "fast") for name in plan.variants)]
    assert plan.forms == {"half": {"storage": "float16"}}
    assert plan.explained == [("pages", "c"), ("others", "d")]
    assert (plan.scoring, plan.timing) == ({"seed": 4}, {"rounds": 5})
    assert plan.tables == (*TABLES, "embeddings", "mteb", "operators", "providers", "scenarios")
    less = {**CONFIG, "retrieval": {"mteb": False}, "latency": {"profile": False}}
    assert Plan({**less, "scenarios": {"run": []}}, ROOT).tables == (*TABLES, "embeddings")
    assert CONFIG["retrieval"]["mteb"] is True  # the config itself stays as it is


def test_what_a_plan_says_of_one_name():
    plan = Plan(CONFIG, ROOT)
    assert plan.folder("m", "int8") == "results/models/m/int8"
    assert plan.folder("m", "peer-optimum") == "results/peers/m/peer-optimum"
    assert plan.tolerance("int8") == {"min_cosine": 0.9}
    assert plan.tolerance("fp32") == {}
    assert plan.tolerance("peer-optimum-int8") == {"min_cosine": 0.85}
    assert plan.peer_inputs("m", "peer-torch-onnx-dynamo") == {}
    assert plan.peer_inputs("m", "peer-onnxruntime-tools") == {
        "environment": ".peers/onnxruntime-tools.json",
        "base": "results/peers/m/peer-torch-onnx-torchscript",
    }
    assert [plan.calibration(name) for name in ("texts", "pages")] == ["a", "d"]
    found = {name: plan.limiting(name) for name in "abcdex"}
    assert found == {
        **{"a": ["colbert", "colpali"], "b": ["colbert"], "c": ["colpali"]},
        **{"d": ["colpali", "colqwen2"], "e": ["colbert"], "x": []},
    }
    assert Plan.pattern(["a.b", "c"]) == r"a\.b|c"
    assert Plan.pattern([]) == "(?!)"
    script = plan.script("gate.py")
    assert script["script"] == "gate.py"
    assert script["code"] != plan.script("score.py")["code"]


@pytest.mark.parametrize(
    ("run", "settings", "allowed"),
    [
        (["int8"], {"range": "full"}, False),
        (["fp32"], {"range": "full"}, True),
        (["int8"], {"range": "exact"}, True),
    ],
)
def test_a_full_range_needs_providers_that_promise_it(run, settings, allowed, monkeypatch):
    monkeypatch.setattr("colport.pipeline.plan.promising", lambda: ("cpu", "other"))
    config = {
        "providers": {"quick": {"type": "cpu"}, "slow": {"type": "cuda"}, "unused": {"type": "x"}},
        "run": {"providers": ["quick", "slow"], "variants": run},
    }
    variant = {"precision": "int8", "base": "fp32", "quantization": settings}
    if allowed:
        _check_quantized("int8", variant, config)
        return
    message = r"int8\.quantization\.range: found full, .* provider 'slow'; .* cpu and other only\.$"
    with pytest.raises(ConfigError, match=message):
        _check_quantized("int8", variant, config)


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_ready_made_variant_is_made_from_its_base(name, monkeypatch, tmp_path):
    from colport.export import folder
    from colport.quantize import folder as quantizing

    export, quantize = Recorder("exported"), Recorder("quantized")
    monkeypatch.setattr(folder, "export", export)
    monkeypatch.setattr(quantizing, "quantize", quantize)
    given = {"family": "colpali", "source": {"a": "b"}, "report": print, "progress": max}
    layout, output = Layout("merge"), tmp_path / "out"
    found = variants.export(
        tmp_path, output, name, layout=layout, dataset="data", prove="prove", **given
    )
    assert found == ("exported" if name == "fp16" else "quantized")
    checkpoint, written = export.arguments
    assert checkpoint == tmp_path
    exported = {**given, "precision": "fp16", "layout": layout, "prove": "prove"}
    if name == "fp16":
        assert (written, export.named) == (output, exported)
        assert quantize.calls == []
        return
    assert export.named == {**exported, "precision": "fp32", "layout": None, "prove": None}
    base, made, settings, laid = quantize.arguments
    assert (base, made, laid) == (written, output, layout)
    assert written.parent.parent == tmp_path
    assert settings.is_calibrated is False
    watched = {"report": print, "progress": max}
    assert quantize.named == {"dataset": "data", "prove": "prove", **watched}


def test_tolerances_of_ready_made_variants():
    assert variants.tolerance("fp32") == variants.get("fp32")["tolerance"]
    assert variants.tolerance("fp16") == variants.get("fp16")["tolerance"] != {}
    assert variants.tolerance("fp16") != variants.tolerance("fp32")
    assert variants.tolerance("no such precision") == {}
    with pytest.raises(ConfigError, match="variant: 'x' is unknown; allowed are fp32, "):
        variants.get("x")


@pytest.mark.parametrize(("allowed", "used"), [(None, 4000), (5000, 5000), (9000, 6000)])
def test_a_proof_takes_no_more_than_it_may(allowed, used, monkeypatch, tmp_path):
    monkeypatch.setattr(proof, "available_mb", lambda: 4000)
    monkeypatch.setattr(proof, "ONCE_MB", 6000)
    embeddings = Recorder("embeddings")
    monkeypatch.setattr(proof.parity, "embeddings", embeddings)
    reference = Recorder("a model")
    family = SimpleNamespace(reference=reference, task="retrieval", document_type="passages")
    assert proof.reference(tmp_path, family, allowed) == "embeddings"
    assert reference.arguments == (tmp_path, "cpu", used)
    assert embeddings.arguments == ("a model", proof.QUERIES, list(proof.PASSAGES))


def test_kept_embeddings_come_back_by_kind_in_their_order(tmp_path):
    def rows(*values):
        return [np.full((2, 3), value, np.float32) for value in values]

    kept = {"query": rows(*range(12)), "document": rows(20, 21)}
    proof.save(kept, tmp_path / "p.npz")
    found = proof.load(tmp_path / "p.npz")
    assert {kind: [row[0, 0] for row in found[kind]] for kind in found} == {
        "query": list(range(12)),
        "document": [20, 21],
    }


MANIFEST = Manifest("colpali", "int8", 24, 128, {}, {}, {}, {"files": []})


@pytest.mark.parametrize(
    ("precision", "settings", "tolerance", "limits"),
    [
        ("int8", {"method": "static"}, {"min_cosine": 0.5}, {}),
        ("int8", {"method": "dynamic"}, {"min_cosine": 0.5}, {"min_cosine": 0.5}),
        ("fp32", {}, None, variants.tolerance("fp32")),
        ("fp16", {}, {}, variants.tolerance("fp16")),
    ],
)
def test_what_a_proved_folder_may_lose(precision, settings, tolerance, limits):
    found = proof.replace(MANIFEST, precision=precision, quantization={"settings": settings})
    check = proof.Proof(lambda beside: {}, {}, tolerance, True, print)
    assert check._limits(found) == proof.Tolerance(**limits)


def test_what_a_runtime_raises_names_the_final_folder(tmp_path):
    with (
        pytest.raises(ExportError, match=rf"^{tmp_path}/out: is not written, .*: {tmp_path}/out/x"),
        proof._named(tmp_path / "out"),
    ):
        raise RuntimeError(f"{tmp_path}/out/x cannot be opened")
    with pytest.raises(OSError, match="full"), proof._named(tmp_path):
        raise OSError("full")


@pytest.mark.parametrize(
    ("precision", "settings", "found"),
    [
        ("int8", {"method": "dynamic", "range": "exact"}, "exact"),
        ("int8", {"method": "dynamic", "range": "full"}, "full"),
        ("int8", {}, "full"),
        ("int8", {"method": "weight_only", "range": "exact"}, None),
        ("int4", {"method": "dynamic", "range": "exact"}, None),
        ("fp32", {}, None),
    ],
)
def test_the_range_of_integer_sums(precision, settings, found):
    said = proof.replace(MANIFEST, precision=precision, quantization={"settings": settings})
    assert said.integer_range == found


def test_a_digest_is_of_names_and_contents():
    def digest(**files):
        return proof.replace(
            MANIFEST, files={name: {"sha256": sha, "size_bytes": 1} for name, sha in files.items()}
        ).digest

    first = digest(a="1", b="2")
    assert digest(b="2", a="1") == first
    assert len({first, digest(a="2", b="1"), digest(a="1"), digest(a="1", c="2")}) == 4


def test_companions_are_all_but_graphs_and_weights(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "out"
    names = ["text.onnx", "image.onnx", "w1", "w2", "tokenizer.json", "inner/processor.json"]
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    (base / "unlisted").write_text("x")
    info = {name: GraphInfo(f"{name}.onnx", {}, {}, 1, 1) for name in ("text", "image")}
    found = proof.replace(
        MANIFEST,
        graphs=info,
        external_data={"files": ["w1", "w2"]},
        files={name: {} for name in names},
    )
    graphs.copy_companions(base, folder, found)
    copied = [file.relative_to(folder).as_posix() for file in folder.rglob("*.*")]
    assert sorted(copied) == ["inner/processor.json", "tokenizer.json"]


@pytest.mark.parametrize("stage", ["export", "retrieval", "latency", "parity"])
def test_the_gate_names_each_failed_row(stage):
    columns = ["model", "variant", "provider", "kind", "status", "reason"]
    good = ("m", "fp32", "cpu", "query", "ok", "")
    failed = ("m", "int8", "cuda", "document", "failed", "why")
    tables = dict.fromkeys(
        ("export", "parity", "retrieval", "latency"), pd.DataFrame([good], columns=columns)
    )
    tables[stage] = pd.DataFrame([good, failed, failed], columns=columns)
    line = "m int8 cuda document (why)"
    if stage != "parity":
        for allowed in (True, False):
            with pytest.raises(RunError, match=rf"^{stage} failed: m int8 cuda document \(why\)$"):
                gate.check(tables, allow_failed_parity=allowed)
        return
    assert gate.check(tables, allow_failed_parity=True) == [line]
    with pytest.raises(ParityError, match=r"^parity failed: m int8 cuda document \(why\)\. Raise"):
        gate.check(tables, allow_failed_parity=False)


@pytest.mark.parametrize(
    ("cause", "kept"), [(ValueError("the cause"), True), (None, False)], ids=["traced", "plain"]
)
def test_the_log_of_a_job(cause, kept, tmp_path, monkeypatch, capsys):
    for name in ("TQDM_DISABLE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    log = tmp_path / "logs/job.log"

    def fail(logger):
        logger.info("a line")
        raise ExportError("it failed") from cause

    with pytest.raises(SystemExit, match="1"), job(log, "m fp32") as logger:
        fail(logger)
    lines = log.read_text().splitlines()
    assert lines[:2] == ["[m fp32] a line", "[m fp32] error: it failed"]
    assert ("the cause" in log.read_text()) is kept
    assert capsys.readouterr().err == "[m fp32] a line\n[m fp32] error: it failed\n"
    assert os.environ["TQDM_DISABLE"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"  # the user's own stays
    with job(log, "again") as logger:
        logger.info("b")
        assert len(logger.handlers) == 2
        assert logger.level == logging.INFO
    assert log.read_text() == "[again] b\n"
