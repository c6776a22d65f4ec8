"""Rule ``checkpoint``: resolve a model's checkpoint and digest its weights."""

from pathlib import Path

from colport import checkpoints
from colport.artifacts import write_json
from colport.job import job


def main(snakemake):
    """Write where the checkpoint lies and what it is."""
    model = snakemake.params.model
    with job(snakemake.log[0], snakemake.wildcards.model):
        record = checkpoints.record(
            model["checkpoint"], model["family"], snakemake.params.workspace
        )
        write_json(Path(snakemake.output[0]), record)


main(snakemake)
