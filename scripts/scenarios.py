"""Rule ``scenarios``: single stream, offline and server, PyTorch beside every variant."""

from tempfile import TemporaryDirectory

from colport import checkpoints
from colport.artifacts import write_json
from colport.contenders import Contest
from colport.job import job
from colport.measure_scenarios import compare
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the scenarios of one model on one provider."""
    model, provider = snakemake.wildcards.model, snakemake.wildcards.provider
    params = snakemake.params
    name = f"{model} {provider} scenarios"
    with job(snakemake.log[0], name) as log, TemporaryDirectory() as pages:
        contest = Contest(
            model,
            provider,
            checkpoints.read_record(snakemake.input.checkpoint),
            dict(zip(params.variants, snakemake.input.models, strict=True)),
            lambda: load_retrieval_dataset("scenarios", params.dataset, snakemake.input.dataset),
            pages,
            params.provider,
            params.reference.get("memory_mb"),
        )
        settings = {**params.settings, "affinity": params.affinity}
        record = compare(contest, settings, params.threads or snakemake.threads, log.info)
        write_json(snakemake.output[0], record)


main(snakemake)
