"""Rule ``proof``: embed the inputs that exports are checked on with the checkpoint's library."""

from pathlib import Path

from colport.base.machine import available_mb
from colport.families import registry
from colport.hub import checkpoints
from colport.pipeline import proof
from colport.pipeline.job import job


def main(snakemake):
    """Write the embeddings of the built-in inputs."""
    with job(snakemake.log[0], f"{snakemake.wildcards.model} proof"):
        resolved = checkpoints.read_record(snakemake.input.checkpoint)
        family = registry.get(resolved["family"])
        memory = min(available_mb(), snakemake.resources.mem_mb)
        known = proof.reference(Path(resolved["folder"]), family, memory)
        proof.save(known, Path(snakemake.output[0]))


main(snakemake)
