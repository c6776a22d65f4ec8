"""Rule ``parity``: compare a variant on a provider with the PyTorch reference."""

from itertools import chain, islice
from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.measure import embedders, overflow, parity
from colport.pipeline.job import job
from colport.scoring.embed import read_documents, read_queries


def main(snakemake):
    """Write the parity record; a known limit is a result, too."""
    labels = {key: snakemake.wildcards[key] for key in ("model", "variant", "provider")}
    with job(snakemake.log[0], " ".join(labels.values())):
        folder, provider = Path(snakemake.input.model), snakemake.params.provider
        try:
            encoder = embedders.load(folder, provider)
            dataset = load_retrieval_dataset(
                "parity", snakemake.params.dataset, snakemake.input.dataset
            )
            count = snakemake.params.settings["inputs"]
            first = read_queries(snakemake.input.standard)
            documents = chain.from_iterable(read_documents(snakemake.input.standard))
            reference = {
                "query": list(islice(first, count)),
                "document": list(islice(documents, count)),
            }
            inputs = dataset.queries[:count], dataset.documents[:count]
            exported, scratch = getattr(encoder, "manifest", None), Path(snakemake.output[0])
            record = parity.measure(
                *(encoder, *inputs, reference),
                snakemake.params.settings["batch_sizes"],
                parity.Tolerance(**snakemake.params.tolerance),
                labels,
                overflow.reaches(folder, exported, provider, *inputs, scratch),
            )
        except UnsupportedError as limit:
            record = parity.unsupported(labels, limit)
        else:
            record["export"] = embedders.digest(encoder)
            record["settings"]["reference"] = first.metadata["weights"]
        write_json(snakemake.output[0], record)


main(snakemake)
