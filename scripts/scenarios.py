"""Rule ``scenarios``: single stream, offline and server, PyTorch beside every variant."""

from tempfile import TemporaryDirectory

from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.hub import checkpoints
from colport.measure.entrants import Contest
from colport.measure.scenarios import compare
from colport.pipeline.job import job


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
