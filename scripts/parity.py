"""Rule ``parity``: compare a variant on a provider with the PyTorch reference."""

from itertools import chain, islice

from colport import embedders, parity
from colport.artifacts import write_json
from colport.embed import read_documents, read_queries
from colport.errors import UnsupportedError
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the parity record; a known limit is a result, too."""
    labels = {key: snakemake.wildcards[key] for key in ("model", "variant", "provider")}
    with job(snakemake.log[0], " ".join(labels.values())):
        try:
            encoder = embedders.load(snakemake.input.model, snakemake.params.provider)
            dataset = load_retrieval_dataset(
                "parity", snakemake.params.dataset, snakemake.input.dataset
            )
            count = snakemake.params.settings["inputs"]
            first = read_queries(snakemake.input.reference)
            documents = chain.from_iterable(read_documents(snakemake.input.reference))
            reference = {
                "query": list(islice(first, count)),
                "document": list(islice(documents, count)),
            }
            record = parity.measure(
                encoder,
                dataset.queries[:count],
                dataset.documents[:count],
                reference,
                snakemake.params.settings["batch_sizes"],
                parity.Tolerance(**snakemake.params.tolerance),
                labels,
            )
        except UnsupportedError as limit:
            record = parity.unsupported(labels, limit)
        else:
            record["export"] = embedders.digest(encoder)
            record["settings"]["reference"] = first.metadata["weights"]
        write_json(snakemake.output[0], record)


main(snakemake)
