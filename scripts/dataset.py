"""Rule ``dataset``: check a dataset, every page of it, and keep its judgements."""

from colport.artifacts import write_json
from colport.job import job
from colport.retrieval.datasets import check_pages, dataset_record, load_retrieval_dataset


def main(snakemake):
    """Write ids, queries, judgements and where they come from; documents stay in the dataset."""
    name = snakemake.wildcards.dataset
    with job(snakemake.log[0], name) as log:
        dataset = load_retrieval_dataset(name, snakemake.params.dataset)
        for document, reason in dataset.skipped.items():
            log.warning("skipped %s: it %s", document, reason)
        log.info("%d queries, %d documents", len(dataset.queries), len(dataset.document_ids))
        check_pages(dataset, log.info)
        record = dataset_record(dataset, snakemake.params.dataset, list(snakemake.input))
        write_json(snakemake.output[0], record)


main(snakemake)
