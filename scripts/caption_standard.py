"""Rule ``standard``: what a captioner's own library generates for the inputs of parity."""

from pathlib import Path

from colport.data.datasets import load_retrieval_dataset
from colport.measure import captions
from colport.pipeline import original, proof
from colport.pipeline.job import job
from colport.scoring.generate import asked


def main(snakemake):
    """Write tokens and logits of the first pictures."""
    with job(snakemake.log[0], f"{snakemake.wildcards.model} standard") as log:
        generator = original.opened(snakemake, log)
        dataset = load_retrieval_dataset(
            "parity", snakemake.params.dataset, snakemake.input.dataset
        )
        found = captions.standard(generator, *asked(dataset, slice(snakemake.params.inputs)))
        proof.save(found, Path(snakemake.output[0]))


main(snakemake)
