"""Rule ``latency``: time PyTorch and every variant on one provider, interleaved."""

from tempfile import TemporaryDirectory

from colport import checkpoints, contenders
from colport.artifacts import write_json
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the latency record of one model on one provider."""
    model, provider = snakemake.wildcards.model, snakemake.wildcards.provider
    with job(snakemake.log[0], f"{model} {provider} latency") as log, TemporaryDirectory() as pages:
        folders = dict(zip(snakemake.params.variants, snakemake.input.models, strict=True))
        record = contenders.compare(
            model,
            provider,
            checkpoints.read_record(snakemake.input.checkpoint),
            folders,
            lambda: load_retrieval_dataset(
                "latency", snakemake.params.dataset, snakemake.input.dataset
            ),
            pages,
            settings=snakemake.params.settings,
            entry=snakemake.params.provider,
            threads=snakemake.threads,
            report=log.info,
            memory_mb=snakemake.params.reference.get("memory_mb"),
        )
        write_json(snakemake.output[0], record)


main(snakemake)
