"""Rule ``standard``: what a captioner's own library generates for the inputs of parity."""

from pathlib import Path

from colport.base.machine import available_mb
from colport.data.datasets import load_retrieval_dataset
from colport.families import registry
from colport.hub import checkpoints
from colport.measure import captions
from colport.pipeline import proof
from colport.pipeline.job import job
from colport.scoring.generate import asked


def main(snakemake):
    """Write tokens and logits of the first pictures."""
    with job(snakemake.log[0], f"{snakemake.wildcards.model} standard"):
        resolved = checkpoints.read_record(snakemake.input.checkpoint)
        family = registry.get(resolved["family"])
        left = min(available_mb(), snakemake.resources.mem_mb)
        memory = snakemake.params.reference.get("memory_mb", left)
        generator = family.reference(Path(resolved["folder"]), "cpu", memory)
        dataset = load_retrieval_dataset(
            "parity", snakemake.params.dataset, snakemake.input.dataset
        )
        found = captions.standard(generator, *asked(dataset, slice(snakemake.params.inputs)))
        proof.save(found, Path(snakemake.output[0]))


main(snakemake)
