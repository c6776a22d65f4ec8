"""Rule ``embed`` of a captioner: the captions of one shard by one variant on one provider."""

from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import write_unsupported
from colport.data.datasets import load_retrieval_dataset
from colport.measure import captions
from colport.pipeline.job import job
from colport.scoring.generate import caption


def main(snakemake):
    """Write the captions, or the known limit that prevents them."""
    labels = dict(snakemake.wildcards.items())
    with job(snakemake.log[0], " ".join(labels.values())) as log:
        shard, dataset = int(labels.pop("shard")), snakemake.params.dataset
        try:
            captioner = captions.load(
                snakemake.input.model, snakemake.params.provider, snakemake.threads
            )
            caption(
                captioner.generate,
                load_retrieval_dataset(labels["dataset"], dataset, snakemake.input.dataset),
                Path(snakemake.output[0]),
                shard=shard,
                **snakemake.params.settings,
                labels=labels,
                report=log.info,
            )
        except UnsupportedError as limit:
            write_unsupported(snakemake.output[0], str(limit), limit.status)


main(snakemake)
