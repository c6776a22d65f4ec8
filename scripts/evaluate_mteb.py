"""Rule ``mteb``: run an exported folder as mteb's encoder, beside our own score."""

from colport.base.errors import UnsupportedError
from colport.base.files import atomic_folder, read_json, write_json, write_unsupported
from colport.data.datasets import load_retrieval_dataset
from colport.pipeline.job import job
from colport.scoring.details import mteb_record


def main(snakemake):
    """Write mteb's own result files, and both scores as a record."""
    labels, params = dict(snakemake.wildcards.items()), snakemake.params
    own = read_json(snakemake.input.score)["rows"][0]["ndcg_at_5"]
    with job(snakemake.log[0], " ".join(labels.values())):
        try:
            from colport.measure import mteb_adapter

            encoder = mteb_adapter.ColPortEncoder(
                snakemake.input.model,
                name=f"colport/{labels['model']}-{labels['variant']}",
                provider=params.provider,
                threads=snakemake.threads,
            )
            dataset = load_retrieval_dataset(
                labels["dataset"], params.dataset, snakemake.input.dataset
            )
            source = read_json(snakemake.input.dataset)
            revision = source["content_sha256"] or source["source"]["revision"]
            task = mteb_adapter.retrieval_task(dataset, revision)
            with atomic_folder(snakemake.output.results) as folder:
                scores = mteb_adapter.evaluate(encoder, [task], folder, params.batch_size)
            record = mteb_record(labels, own, scores[dataset.name])
        except UnsupportedError as limit:
            write_unsupported(snakemake.output.results, str(limit))
            record = mteb_record(labels, own, None, str(limit))
        write_json(snakemake.output.record, record)


main(snakemake)
