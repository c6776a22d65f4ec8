"""Rules ``score`` and ``score_reference``: rank with MaxSim and evaluate."""

from colport.base.errors import UnsupportedError
from colport.base.files import read_json, write_json
from colport.base.names import REFERENCE_VARIANT
from colport.pipeline.job import job
from colport.scoring.embed import read_documents, read_queries
from colport.scoring.forms import Form
from colport.scoring.record import retrieval_record, unsupported_record
from colport.scoring.score import RunScores, score_forms


def main(snakemake):
    """Write the retrieval record of one model, variant, provider and dataset."""
    labels = {
        "variant": REFERENCE_VARIANT,
        "provider": "torch",
        **dict(snakemake.wildcards.items()),
    }
    labels.pop("quality")
    with job(snakemake.log[0], " ".join(labels.values())):
        try:
            queries = read_queries(snakemake.input.first)
            documents = read_documents(snakemake.input.first)
            labels["provider"] = queries.metadata["provider"]
            qrels = read_json(snakemake.input.dataset)["qrels"]
            forms = [Form(name, **form) for name, form in snakemake.params.forms.items()]
            run, smaller = score_forms(queries, documents, qrels, forms)
            reference = snakemake.input.get("reference")
            record = retrieval_record(
                labels,
                run=run,
                reference_run=RunScores.from_record(read_json(reference)) if reference else None,
                settings=snakemake.params.settings,
                forms=smaller,
            )
            for row in record["rows"]:
                row["reason"] = row["reason"] or queries.metadata.get("note", "")
        except UnsupportedError as limit:
            record = unsupported_record(labels, limit)
        write_json(snakemake.output[0], record)


main(snakemake)
