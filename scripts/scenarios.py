"""Rule ``scenarios``: single stream, offline and server, PyTorch beside every variant."""

from tempfile import TemporaryDirectory

from colport import contenders
from colport.artifacts import read_json, write_json
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the scenarios of one model on one provider."""
    model, provider = snakemake.wildcards.model, snakemake.wildcards.provider
    params = snakemake.params
    with job(snakemake.log[0], f"{model} {provider} scenarios") as log, TemporaryDirectory() as tmp:
        record = contenders.run_scenarios(
            model,
            provider,
            read_json(snakemake.input.checkpoint),
            dict(zip(params.variants, snakemake.input.models, strict=True)),
            lambda: load_retrieval_dataset("scenarios", params.dataset, snakemake.input.dataset),
            tmp,
            settings={**params.settings, "affinity": params.affinity},
            entry=params.provider,
            threads=params.threads or snakemake.threads,
            report=log.info,
            memory_mb=snakemake.params.reference.get("memory_mb"),
        )
        write_json(snakemake.output[0], record)


main(snakemake)
