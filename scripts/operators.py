"""Rule ``operators``: ONNX Runtime's profile of one query and one document in every variant."""

from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.measure.profile import profile
from colport.pipeline.job import job


def main(snakemake):
    """Write the profiles of one model."""
    model, params = snakemake.wildcards.model, snakemake.params
    with job(snakemake.log[0], f"{model} operators") as log:
        dataset = load_retrieval_dataset("latency", params.dataset, snakemake.input.dataset)
        record = profile(
            model,
            params.providers,
            dict(zip(params.variants, snakemake.input.models, strict=True)),
            dataset.queries[0],
            dataset.documents[0],
            params.threads or snakemake.threads,
            log.info,
        )
        write_json(snakemake.output[0], record)


main(snakemake)
