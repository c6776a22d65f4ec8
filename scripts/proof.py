"""Rule ``proof``: embed the inputs that exports are checked on with the checkpoint's library."""

from pathlib import Path

from colport import checkpoints, families, proof
from colport.environment import available_mb
from colport.job import job


def main(snakemake):
    """Write the embeddings of the built-in inputs."""
    with job(snakemake.log[0], f"{snakemake.wildcards.model} proof"):
        checkpoint = checkpoints.read_record(snakemake.input.checkpoint)
        family = families.get(checkpoint["family"])
        memory = min(available_mb(), snakemake.resources.mem_mb)
        known = proof.reference(Path(checkpoint["folder"]), family, memory)
        proof.save(known, Path(snakemake.output[0]))


main(snakemake)
