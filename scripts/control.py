"""Rule ``control``: a baseline of a dataset, to hold the models' scores against."""

from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.pipeline.job import job
from colport.scoring.controls import control_record


def main(snakemake):
    """Write the retrieval record of one control on one dataset."""
    control, name = snakemake.wildcards.control, snakemake.wildcards.dataset
    with job(snakemake.log[0], f"{control} {name}"):
        dataset = load_retrieval_dataset(name, snakemake.params.dataset, snakemake.input.dataset)
        record = control_record(control, dataset, snakemake.params.settings)
        write_json(snakemake.output[0], record)


main(snakemake)
