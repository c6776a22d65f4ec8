"""A folder of PDFs as a dataset: checked before anything is embedded, read anew when it changes."""

import json

import pandas as pd
import pytest
import yaml

from tests.pdfs import pdf

from .conftest import ROOT

RECORD = "results/datasets/mine.json"
DECLARATION = {
    "documents_folder": "reports",
    "queries": "queries.csv",
    "judgements": "judgements.tsv",
}


def config(**changes):
    return {
        "run": {"models": ["colpali-demo"], "variants": ["fp32"], "providers": ["cpu"]},
        "models": {"colpali-demo": {"datasets": ["mine"]}},
        "datasets": {"mine": DECLARATION | changes},
    }


@pytest.fixture
def reports(workspace):
    """A folder with a good PDF and one that is locked, beside queries and judgements."""
    folder = workspace.folder / "reports"
    folder.mkdir()
    (folder / "good.pdf").write_bytes(pdf(["red pie chart", "blue bars"]))
    (folder / "locked.pdf").write_bytes(pdf(["x"], password="secret"))
    (workspace.folder / "queries.csv").write_text("query_id,query\nq1,a red pie chart\n")
    (workspace.folder / "judgements.tsv").write_text("query_id\tdocument\nq1\tgood.pdf#1\n")
    return folder


def test_a_bad_document_ends_the_run_before_anything_is_embedded(workspace, reports):
    run = workspace.snakemake(config=config())
    assert run.code != 0
    assert "mine: locked.pdf in reports is encrypted and asks for a password" in run.output
    assert not {"reference", "embed", "latency"} & set(run.jobs)


def test_a_change_is_read_anew(workspace, reports):
    skip = config(on_bad_document="skip")
    run = workspace.snakemake(RECORD, config=skip)
    assert run.code == 0, run.output[-3000:]
    assert "skipped locked.pdf: it is encrypted" in run.output
    first = json.loads((workspace.folder / RECORD).read_text())
    assert first["counts"] == {"queries": 1, "documents": 2, "judgements": 1, "skipped": 1}
    assert workspace.snakemake(RECORD, config=skip).jobs == []
    (reports / "good.pdf").write_bytes(pdf(["red pie chart", "green bars"]))
    run = workspace.snakemake(RECORD, config=skip)
    assert run.jobs == ["dataset"]
    second = json.loads((workspace.folder / RECORD).read_text())
    assert first["content_sha256"] != second["content_sha256"]
    assert first["document_ids"] == second["document_ids"]


SHORT = {
    "run": {"variants": ["fp32"]},
    "latency": {
        **{"batch_sizes": [1], "rounds": 1, "min_samples": 1, "min_seconds": 0, "quiet_wait_s": 0},
        "profile": False,
    },
}


def test_the_example_runs_as_it_is(workspace):
    """But for shorter measurements, from a folder that holds nothing."""
    for link in workspace.folder.iterdir():
        link.unlink()
    file = workspace.folder / "short.yaml"
    file.write_text(yaml.safe_dump(SHORT))
    example = ROOT / "config/mine.example.yaml"
    run = workspace.snakemake("--configfile", str(example), str(file))
    assert run.code == 0, run.output[-3000:]
    tables = workspace.folder / "results/tables"
    assert (workspace.folder / "results/report.html").is_file()
    summary = pd.read_csv(tables / "summary.csv")
    assert summary[["model", "variant", "provider"]].values.tolist() == [
        ["my-model", "pytorch", "torch-cpu"],
        ["my-model", "fp32", "cpu"],
    ]
    assert summary["ndcg_at_5"].min() > 0.9
    for name in ("parity", "latency", "export"):
        assert set(pd.read_csv(tables / f"{name}.csv")["status"]) == {"ok"}
