"""Rule ``dataset``: check a dataset, every page of it, and keep its judgements."""

from colport.base.files import write_json
from colport.data.datasets import check_pages, dataset_record, load_retrieval_dataset
from colport.pipeline.job import job

_ASKED_IN = ("queries", "captions", "path", "hub")


def main(snakemake):
    """Write ids, queries, judgements and where they come from; documents stay in the dataset."""
    name, declared = snakemake.wildcards.dataset, snakemake.params.dataset
    skips = declared.get("on_bad_document", "refuse") == "skip"
    with job(snakemake.log[0], name) as log:
        dataset = load_retrieval_dataset(name, declared)
        dataset = check_pages(
            dataset,
            log.info,
            read_by=snakemake.params.read_by,
            skip=skips if "documents_folder" in declared else None,
            asked_in=next(declared[key] for key in _ASKED_IN if key in declared),
        )
        for document, reason in dataset.skipped.items():
            log.warning("skipped %s: it %s", document, reason)
        log.info("%d queries, %d documents", len(dataset.queries), len(dataset.document_ids))
        record = dataset_record(dataset, declared, list(snakemake.input))
        write_json(snakemake.output[0], record)


main(snakemake)
