"""Rules ``score`` and ``score_reference``: rank with MaxSim and evaluate."""

from colport.artifacts import read_json, write_json
from colport.embed import read_documents, read_queries
from colport.errors import UnsupportedError
from colport.job import job
from colport.retrieval.score import RunScores, retrieval_record, score_run, unsupported_record


def main(snakemake):
    """Write the retrieval record of one model, variant, provider and dataset."""
    labels = {"variant": "pytorch", "provider": "torch", **dict(snakemake.wildcards.items())}
    with job(snakemake.log[0], " ".join(labels.values())):
        try:
            queries = read_queries(snakemake.input.embeddings)
            documents = read_documents(snakemake.input.embeddings)
            labels["provider"] = queries.metadata["provider"]
            run = score_run(queries, documents, read_json(snakemake.input.dataset)["qrels"])
            reference = snakemake.input.get("reference")
            baseline = RunScores.from_record(read_json(reference)) if reference else None
            record = retrieval_record(
                **labels, run=run, reference_run=baseline, settings=snakemake.params.settings
            )
        except UnsupportedError as limit:
            record = unsupported_record(**labels, reason=str(limit))
        write_json(snakemake.output[0], record)


main(snakemake)
