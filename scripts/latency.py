"""Rule ``latency``: time PyTorch and every variant on one provider, interleaved."""

from tempfile import TemporaryDirectory

from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.hub import checkpoints
from colport.measure.entrants import Contest
from colport.measure.latency import compare
from colport.pipeline.job import job


def main(snakemake):
    """Write the latency record of one model on one provider."""
    model, provider = snakemake.wildcards.model, snakemake.wildcards.provider
    params = snakemake.params
    with job(snakemake.log[0], f"{model} {provider} latency") as log, TemporaryDirectory() as pages:
        contest = Contest(
            model,
            provider,
            checkpoints.read_record(snakemake.input.checkpoint),
            dict(zip(params.variants, snakemake.input.models, strict=True)),
            lambda: load_retrieval_dataset("latency", params.dataset, snakemake.input.dataset),
            pages,
            params.provider,
            params.reference.get("memory_mb"),
        )
        record = compare(contest, params.settings, snakemake.threads, log.info)
        write_json(snakemake.output[0], record)


main(snakemake)
