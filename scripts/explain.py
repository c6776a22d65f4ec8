"""Rule ``explain``: heat maps of a model's best, median and most damaged query."""

from itertools import product

from colport.base.files import write_json
from colport.base.names import REFERENCE_VARIANT
from colport.data.datasets import load_retrieval_dataset
from colport.explain.record import Results, explain_record
from colport.pipeline.job import job


def main(snakemake):
    """Write the record of one model on one dataset, pictures inside."""
    model, name = snakemake.wildcards.model, snakemake.wildcards.dataset
    with job(snakemake.log[0], f"{model} {name}"):
        given, params = snakemake.input, snakemake.params
        places = product(params.variants, params.providers)
        record = explain_record(
            model,
            load_retrieval_dataset(name, params.dataset, snakemake.input.dataset),
            given.models,
            Results(REFERENCE_VARIANT, given.reference, given.reference_record),
            [
                Results(variant, embeddings, file)
                for (variant, _), embeddings, file in zip(
                    places, given.embeddings, given.records, strict=True
                )
            ],
        )
        write_json(snakemake.output[0], record)


main(snakemake)
