"""Documents are embedded in shards, a job each; what is there is not embedded again."""

import shutil

from .conftest import TINY

RECORD = "results/retrieval/tiny/pytorch/demo-passages.json"
SHARDS = "results/reference/tiny/demo-passages"


def config(shard_documents):
    return {
        "run": {"models": ["tiny"], "variants": ["fp32"], "providers": ["cpu"]},
        "models": {"tiny": TINY},
        "encode": {"shard_documents": shard_documents},
        "retrieval": {"resamples": 200},
    }


def test_shards_are_jobs_and_only_missing_ones_run_again(workspace):
    run = workspace.snakemake(RECORD, config=config(40))
    assert run.code == 0, run.output[-3000:]
    jobs = ["checkpoint", "dataset", "reference", "reference", "score_reference"]
    assert sorted(run.jobs) == jobs
    folder = workspace.folder / SHARDS
    queries = {file.parent.name for file in folder.glob("*/queries.safetensors")}
    documents = {file.parent.name for file in folder.glob("*/documents.safetensors")}
    assert (queries, documents) == ({"0"}, {"0", "1"})
    assert workspace.snakemake(RECORD, config=config(40)).jobs == []
    shutil.rmtree(folder / "1")  # as if the run had been killed before
    (workspace.folder / RECORD).unlink()
    run = workspace.snakemake(RECORD, "--dry-run", config=config(40))
    assert run.jobs == ["reference", "score_reference"], run.output[-3000:]
