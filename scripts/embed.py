"""Rule ``embed``: embed one shard of a dataset with one variant on one provider."""

from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import write_unsupported
from colport.data.datasets import load_retrieval_dataset
from colport.measure import embedders
from colport.pipeline.job import job
from colport.scoring.embed import embed


def main(snakemake):
    """Write the embeddings, or the known limit that prevents them."""
    labels = dict(snakemake.wildcards.items())
    with job(snakemake.log[0], " ".join(labels.values())) as log:
        shard, settings = int(labels.pop("shard")), snakemake.params.settings
        try:
            encoder = embedders.load(
                snakemake.input.model, snakemake.params.provider, snakemake.threads
            )
            dataset = load_retrieval_dataset(
                labels["dataset"], snakemake.params.dataset, snakemake.input.dataset
            )
            size, note = embedders.usable_batch(encoder, dataset, settings.get("batch_size"))
            embed(
                encoder,
                dataset,
                Path(snakemake.output[0]),
                shard=shard,
                shard_documents=settings["shard_documents"],
                batch_size=size,
                labels=labels | ({"note": note} if note else {}),
                report=log.info,
            )
        except UnsupportedError as limit:
            write_unsupported(snakemake.output[0], str(limit), limit.status)


main(snakemake)
