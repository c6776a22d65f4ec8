"""A user's mistake: one message that names it, an exit code, no traceback, nothing lost."""

import shutil

import pandas as pd
import pytest

from .conftest import ROOT, TINY

ONE_MODEL = {"models": ["colpali-demo"], "variants": ["fp32"], "providers": ["cpu"]}


def refused(run, message):
    assert run.code != 0
    assert message in run.output, run.output[-3000:]
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("config", "further"),
    [
        ("config", set()),
        ("mine.example", {"explain"}),
        ("vidore", set()),
        ("thorough", {"scenarios"}),
        ("peers", {"peer_export"}),
    ],
)
def test_every_shipped_config_plans(workspace, config, further):
    run = workspace.snakemake("--dry-run", "--configfile", f"config/{config}.yaml")
    assert run.code == 0, run.output[-3000:]
    assert {"export", "quantize", "parity", "latency", "report"} | further <= set(run.jobs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rnu": {}}, "error in the config: rnu: unknown key"),
        (
            {"models": {"colpali-demo": {"datasets": ["demo-passages"]}}},
            "'demo-passages' holds passages, family colpali reads pages",
        ),
    ],
)
def test_a_config_mistake_ends_before_the_first_job(workspace, config, message):
    """Every kind of mistake is in tests/unit/test_config.py."""
    run = workspace.snakemake(config=config)
    refused(run, message)
    assert run.jobs == []


def with_checkpoint(**checkpoint):
    return {
        "run": {**ONE_MODEL, "models": ["broken"]},
        "models": {
            "broken": {
                "family": checkpoint.pop("family", "colpali"),
                "checkpoint": checkpoint,
                "datasets": ["demo-pages-qa"],
            }
        },
    }


def test_a_checkpoint_that_is_missing(workspace):
    run = workspace.snakemake("--dry-run", config=with_checkpoint(path="no/such/folder"))
    place = workspace.folder / "no/such/folder"
    refused(run, f"models.broken.checkpoint.path: there is no folder '{place}'.")
    assert run.jobs == []


def test_a_hub_checkpoint_without_a_hub(workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(workspace.folder / "empty"))
    config = with_checkpoint(hub="someone/model", revision="0" * 40)
    run = workspace.snakemake("results/checkpoints/broken.json", config=config)
    refused(run, "the Hub cannot be reached and its cache does not hold this revision")


def test_a_truncated_checkpoint(workspace):
    folder = workspace.folder / "truncated"
    shutil.copytree(ROOT / "resources/checkpoints/colpali-demo", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = workspace.snakemake(config=with_checkpoint(path=str(folder)))
    refused(run, "model.safetensors: is truncated")
    assert not (workspace.folder / "results/models").exists()


def test_a_checkpoint_of_another_family(workspace):
    path = str(ROOT / "resources/checkpoints/colqwen2-demo")
    run = workspace.snakemake("--dry-run", config=with_checkpoint(path=path))
    refused(run, "is declared as family 'colpali' but is 'colqwen2'")


def test_a_dataset_that_is_missing(workspace):
    config = {"run": ONE_MODEL, "datasets": {"demo-pages-qa": {"path": "no/such/dataset"}}}
    run = workspace.snakemake("--dry-run", config=config)
    place = workspace.folder / "no/such/dataset"
    refused(run, f"datasets.demo-pages-qa.path: there is no folder '{place}'.")
    assert not list(workspace.folder.glob(".snakemake/colport-runs/*"))


QUICK = {
    "parity": {"inputs": 4, "batch_sizes": [2]},
    "latency": {
        "batch_sizes": [1],
        "rounds": 1,
        "min_samples": 1,
        "min_seconds": 0,
        "quiet_wait_s": 0,
        "pytorch": ["bf16"],
        "profile": False,
    },
}


def test_a_failed_parity_fails_the_run_after_the_report(workspace):
    config = {
        **QUICK,
        "run": {**ONE_MODEL, "models": ["tiny"], "variants": ["int8"], "embeddings": []},
        "models": {"tiny": TINY},
        "variants": {"int8": {"tolerance": {"min_cosine": 1.0}}},
    }
    run = workspace.snakemake(config=config)
    refused(run, "parity failed: tiny int8 cpu")
    assert "set run.allow_failed_parity: true to accept" in run.output
    assert (workspace.folder / "results/report.html").is_file()
    latency = pd.read_csv(workspace.folder / "results/tables/latency.csv")
    assert set(latency["variant"]) == {"pytorch", "pytorch-bf16", "fp32", "int8"}
    assert set(latency["status"]) == {"ok"}
    config["run"]["allow_failed_parity"] = True
    allowed = workspace.snakemake(config=config)
    assert allowed.code == 0, allowed.output[-3000:]
    assert sorted(set(allowed.jobs)) == ["all", "gate", "report"]


def test_a_quantizer_without_anything_to_do_is_unsupported(workspace):
    config = {
        **QUICK,
        "run": {**ONE_MODEL, "models": ["tiny"], "variants": ["int8"]},
        "models": {"tiny": TINY},
        "variants": {"int8": {"quantization": {"exclude": ["weight"]}}},
    }
    target = "results/parity/tiny/int8/cpu.json"
    run = workspace.snakemake(target, config=config)
    assert run.code == 0, run.output[-3000:]
    assert "graph has no MatMul or Gather on a weight" in (workspace.folder / target).read_text()
