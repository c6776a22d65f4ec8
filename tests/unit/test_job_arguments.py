"""What reaches the library from a job's inputs, parameters, threads and wildcards."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from colport.base.errors import UnsupportedError
from colport.base.files import read_json, write_json
from tests.conftest import ROOT
from tests.unit.test_job_scripts import Namespace

RECORD = {
    **{"family": "colqwen2", "source": "me/it@1", "applied": ["a LoRA"], "weights": {"a": "1"}},
    "parameters": 3,
}
DATASET = SimpleNamespace(name="pages", queries=["q0", "q1"], documents=["d0", "d1"])


class Recorder:
    """Stands in for a function and keeps what it was called with."""

    def __init__(self, result=None):
        self.calls, self.result = [], result

    def __call__(self, *arguments, **named):
        self.calls.append((arguments, named))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    arguments = property(lambda self: self.calls[-1][0])
    named = property(lambda self: self.calls[-1][1])


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run a script; its dataset and its checkpoint are only said to be there."""
    load = Recorder(DATASET)
    monkeypatch.setattr("colport.data.datasets.load_retrieval_dataset", load)
    write_json(tmp_path / "checkpoint.json", {**RECORD, "folder": str(tmp_path)})

    def run(name, *, output, **given):
        parts = {key: Namespace(**given.pop(key, {})) for key in ("wildcards", "input", "params")}
        parts["input"].checkpoint = str(tmp_path / "checkpoint.json")
        fake = Namespace(
            **parts,
            output=Namespace(**{key: str(tmp_path / value) for key, value in output.items()}),
            log=[str(tmp_path / "job.log")],
            threads=3,
            resources=Namespace(**given.pop("resources", {})),
        )
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), {"snakemake": fake})
        return read_json(tmp_path / "out.json") if (tmp_path / "out.json").is_file() else None

    run.folder, run.load = tmp_path, load
    return run


@pytest.mark.parametrize(("name", "threads"), [("latency", 3), ("scenarios", 7)])
def test_a_contest_is_of_all_variants(name, threads, job, monkeypatch):
    compare = Recorder({"rows": []})
    monkeypatch.setattr(f"colport.measure.{name}.compare", compare)
    record = job(
        name,
        wildcards={"model": "m", "provider": "fast"},
        input={"models": ["folder-a", "folder-b"], "dataset": "pages.json"},
        params={
            **{"variants": ["fp32", "int8"], "dataset": {"path": "p"}, "threads": 7},
            **{"provider": {"type": "cpu"}, "reference": {"memory_mb": 6000}},
            **{"settings": {"rounds": 5}, "affinity": True},
        },
        output={"record": "out.json"},
    )
    assert record["rows"] == []
    contest, settings, given, _ = compare.arguments
    assert (contest.model, contest.provider, contest.entry) == ("m", "fast", {"type": "cpu"})
    assert contest.folders == {"fp32": "folder-a", "int8": "folder-b"}
    assert (contest.memory_mb, contest.resolved["family"]) == (6000, "colqwen2")
    assert (settings["rounds"], given) == (5, threads)
    assert settings.get("affinity") is (True if name == "scenarios" else None)
    assert contest.dataset() is DATASET
    assert job.load.arguments == (name, {"path": "p"}, "pages.json")


@pytest.mark.parametrize(("threads", "expected"), [(7, 7), (None, 3)])
def test_a_profile_is_of_the_first_inputs(threads, expected, job, monkeypatch):
    profile = Recorder({"rows": []})
    monkeypatch.setattr("colport.measure.profile.profile", profile)
    providers = {"fast": {"type": "cpu"}, "slow": {"type": "cuda"}}
    job(
        "operators",
        wildcards={"model": "m"},
        input={"models": ["folder-a", "folder-b"], "dataset": "pages.json"},
        params={"variants": ["fp32", "int8"], "dataset": {}, "threads": threads}
        | {"providers": providers},
        output={"record": "out.json"},
    )
    folders = {"fp32": "folder-a", "int8": "folder-b"}
    assert profile.arguments[:6] == ("m", providers, folders, "q0", "d0", expected)


def test_an_explanation_is_of_every_variant_on_every_provider(job, monkeypatch):
    explain = Recorder({"figures": []})
    monkeypatch.setattr("colport.explain.record.explain_record", explain)
    job(
        "explain",
        wildcards={"model": "m", "dataset": "pages"},
        input={
            **{"models": ["folder-a"], "dataset": "pages.json", "reference": "r"},
            **{"reference_record": "r.json", "embeddings": list("abcd")},
            "records": [f"{name}.json" for name in "abcd"],
        },
        params={
            "variants": ["fp32", "int8"],
            "providers": ["cpu", "cuda"],
            "dataset": {"path": "p"},
        },
        output={"record": "out.json"},
    )
    model, dataset, folders, reference, results = explain.arguments
    assert (model, dataset, folders) == ("m", DATASET, ["folder-a"])
    assert vars(reference) == {"variant": "pytorch", "embeddings": "r", "record": "r.json"}
    assert [tuple(vars(one).values()) for one in results] == [
        ("fp32", "a", "a.json"),
        ("fp32", "b", "b.json"),
        ("int8", "c", "c.json"),
        ("int8", "d", "d.json"),
    ]
    assert job.load.arguments == ("pages", {"path": "p"}, "pages.json")


@pytest.mark.parametrize(
    ("allowed", "memory"), [({"memory_mb": 5000}, 5000), ({}, 2000)], ids=["config", "job"]
)
def test_a_reference_has_the_memory_of_its_job(allowed, memory, job, monkeypatch):
    from colport.families import registry

    original = SimpleNamespace(
        room=SimpleNamespace(weights="in memory", note=""), queries_at_once=9
    )
    reference, embed = Recorder(original), Recorder()
    monkeypatch.setattr(registry, "get", lambda name: SimpleNamespace(reference=reference))
    monkeypatch.setattr("colport.scoring.embed.embed", embed)
    monkeypatch.setattr("colport.base.machine.available_mb", lambda: 9000)
    job(
        "reference",
        wildcards={"model": "m", "dataset": "pages", "shard": "2"},
        input={"dataset": "pages.json"},
        params={"reference": allowed, "dataset": {"path": "p"}, "settings": {"batch_size": 4}},
        output={"folder": "out"},
        resources={"mem_mb": 2000},
    )
    assert reference.arguments[0] == job.folder
    assert reference.arguments[2] == memory
    assert embed.arguments == (original, DATASET, job.folder / "out")
    named = embed.named
    assert (named["shard"], named["batch_size"], named["query_batch_size"]) == (2, 4, 9)
    device = reference.arguments[1]
    assert named["labels"] == {
        **{"model": "m", "variant": "pytorch", "provider": f"torch-{device}"},
        "weights": "in memory",
    }
    assert job.load.arguments == ("pages", {"path": "p"}, "pages.json")


@pytest.fixture
def exporting(monkeypatch):
    from colport.pipeline import proof

    parts = SimpleNamespace(by_checkpoint=Recorder("a proof"), by_base=Recorder("a proof"))
    parts.load = Recorder("kept embeddings")
    for name in ("by_checkpoint", "by_base", "load"):
        monkeypatch.setattr(proof, name, getattr(parts, name))
    return parts


LABELS = {"model": "m", "variant": "v"}


@pytest.mark.parametrize("opset", [None, 21])
def test_an_export_is_proved_by_its_variant_s_tolerance(opset, exporting, job, monkeypatch):
    from colport.export import folder, record
    from colport.tensors.external_data import Layout

    export, written = Recorder("a manifest"), Recorder({"rows": []})
    monkeypatch.setattr(folder, "export", export)
    monkeypatch.setattr(record, "record", written)
    variant = {"precision": "fp16", "tolerance": {"min_cosine": 0.9}}
    variant |= {"external_data": {"layout": "merge"}, **({"opset": opset} if opset else {})}
    given = {"wildcards": LABELS, "input": {"proof": "p.npz"}, "params": {"variant": variant}}
    output = {"folder": "out", "record": "out.json"}
    job("export", **given, output=output)
    assert export.arguments == (job.folder, job.folder / "out")
    named = export.named
    assert (named["family"], named["precision"]) == ("colqwen2", "fp16")
    assert (named["opset"], named["layout"]) == (opset or folder.OPSET, Layout("merge"))
    assert named["source"] == {key: RECORD[key] for key in ("source", "applied", "weights")}
    known, tolerance, _ = exporting.by_checkpoint.arguments
    assert (known(), tolerance, named["prove"]) == (
        "kept embeddings",
        {"min_cosine": 0.9},
        "a proof",
    )
    assert exporting.load.arguments == (Path("p.npz"),)
    labels = {**LABELS, "family": "colqwen2"}
    manifest, place, found, cost = written.arguments
    assert (manifest, place, found) == ("a manifest", job.folder / "out", labels)
    assert cost["seconds"] < 60
    export.result = UnsupportedError("a limit")
    (row,) = job("export", **given, output=output)["rows"]
    assert (row["status"], row["reason"], row["family"]) == ("unsupported", "a limit", "colqwen2")


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_a_quantized_folder_may_lose_and_is_still_measured(method, exporting, job, monkeypatch):
    from colport.export import record
    from colport.quantize import folder

    quantize = Recorder("a manifest")
    monkeypatch.setattr(folder, "quantize", quantize)
    monkeypatch.setattr(record, "record", Recorder({"rows": []}))
    variant = {"precision": "int8", "base": "fp32", "tolerance": {"min_cosine": 0.9}}
    variant |= {"quantization": {"method": method}}
    job(
        "quantize",
        wildcards=LABELS,
        input={"base": "base", "calibration": ["pages.json", "other.json"]},
        params={"variant": variant, "family": "colpali", "calibration": "pages"}
        | {"dataset": {"path": "p"}},
        output={"folder": "out", "record": "out.json"},
        resources={"scratch": "/scratch"},
    )
    base, output, settings, layout, _ = quantize.arguments
    assert (base, output) == (Path("base"), job.folder / "out")
    assert (settings.method, layout.layout) == (method, "split")
    assert quantize.named["scratch"] == "/scratch"
    assert quantize.named["dataset"] is (DATASET if method == "static" else None)
    asked = [("pages", {"path": "p"}, "pages.json")] if method == "static" else []
    assert [call[0] for call in job.load.calls] == asked
    assert exporting.by_base.arguments[:2] == (Path("base"), {"min_cosine": 0.9})
    assert exporting.by_base.named == {"strict": False}
    written = record.record.arguments
    assert written[2] == {"model": "m", "family": "colpali", "variant": "v"}


@pytest.mark.parametrize(
    "further", [{}, {"base": "base", "environment": True}], ids=["own", "both"]
)
def test_a_peer_exports_in_its_environment_from_its_base(further, job, monkeypatch):
    from colport.peers import environments, export

    exported, written = Recorder("exported"), Recorder({"rows": []})
    monkeypatch.setattr(export, "export", exported)
    monkeypatch.setattr(export, "record", written)
    monkeypatch.setattr(environments, "own", lambda: {"folder": "own"})
    write_json(job.folder / "environment.json", {"folder": "theirs"})
    given = {**further}
    if further:
        given["environment"] = str(job.folder / "environment.json")
    labels = {"model": "m", "variant": "peer-optimum"}
    job(
        "peer_export",
        wildcards=labels,
        input=given,
        params={"timeout_s": 77},
        output={"folder": "out", "record": "out.json"},
    )
    variant, output = exported.arguments
    assert (variant.name, output) == ("peer-optimum", job.folder / "out")
    named = exported.named
    assert named["resolved"]["folder"] == str(job.folder)
    assert named["installed"]["folder"] == ("theirs" if further else "own")
    assert named["base"] == (Path("base") if further else None)
    assert (named["timeout_s"], named["log"]) == (77, job.folder / "job.log")
    found = {**labels, "family": "colqwen2"}
    assert written.arguments[:3] == (found, "exported", job.folder / "out")


@pytest.mark.parametrize(("content", "revision"), [("digest", "digest"), (None, "commit")])
def test_mteb_scores_what_was_scored(content, revision, job, monkeypatch):
    import colport.measure

    adapter = SimpleNamespace(
        ColPortEncoder=Recorder("an encoder"),
        retrieval_task=Recorder("a task"),
        evaluate=Recorder({"pages": 0.75}),
    )
    monkeypatch.setitem(sys.modules, "colport.measure.mteb_adapter", adapter)  # it imports mteb
    monkeypatch.setattr(colport.measure, "mteb_adapter", adapter, raising=False)
    dataset, score = job.folder / "pages.json", job.folder / "score.json"
    write_json(dataset, {"content_sha256": content, "source": {"revision": "commit"}})
    write_json(score, {"rows": [{"ndcg_at_5": 0.5}, {"ndcg_at_5": 0.1}]})
    labels = {"model": "m", "variant": "int8", "provider": "fast", "dataset": "pages"}
    record = job(
        "evaluate_mteb",
        wildcards=labels,
        input={"model": "folder", "dataset": str(dataset), "score": str(score)},
        params={"provider": {"type": "cpu"}, "dataset": {"path": "p"}, "batch_size": 4},
        output={"results": "results", "record": "out.json"},
    )
    named = {"name": "colport/m-int8", "provider": {"type": "cpu"}, "threads": 3}
    assert adapter.ColPortEncoder.calls == [(("folder",), named)]
    assert adapter.retrieval_task.arguments == (DATASET, revision)
    assert adapter.evaluate.arguments[:2] == ("an encoder", ["a task"])
    assert adapter.evaluate.arguments[3] == 4
    (row,) = record["rows"]
    assert {key: row[key] for key in labels} == labels
    assert {0.5, 0.75} <= set(row.values())
