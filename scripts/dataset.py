"""Rule ``dataset``: validate a dataset and keep its judgements."""

from colport.artifacts import write_json
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write ids, queries and judgements; documents stay in the dataset."""
    name = snakemake.wildcards.dataset
    with job(snakemake.log[0], name) as log:
        dataset = load_retrieval_dataset(name, snakemake.params.dataset)
        log.info("%d queries, %d documents", len(dataset.queries), len(dataset.document_ids))
        fields = ("query_ids", "queries", "document_ids", "qrels")
        write_json(snakemake.output[0], {field: getattr(dataset, field) for field in fields})


main(snakemake)
