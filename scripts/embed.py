"""Rule ``embed``: embed one shard of a dataset with one variant on one provider."""

from pathlib import Path

from colport.artifacts import write_unsupported
from colport.embed import embed
from colport.encoder import Encoder
from colport.errors import UnsupportedError
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the embeddings, or the known limit that prevents them."""
    labels = dict(snakemake.wildcards.items())
    with job(snakemake.log[0], " ".join(labels.values())) as log:
        shard = int(labels.pop("shard"))
        try:
            options = snakemake.params.provider.get("options")
            encoder = Encoder(snakemake.input.model, labels["provider"], snakemake.threads, options)
        except UnsupportedError as limit:
            write_unsupported(snakemake.output[0], str(limit))
            return
        embed(
            encoder,
            load_retrieval_dataset(labels["dataset"], snakemake.params.dataset),
            Path(snakemake.output[0]),
            shard=shard,
            **snakemake.params.settings,
            labels=labels,
            report=log.info,
        )


main(snakemake)
