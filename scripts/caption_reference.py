"""Rule ``reference`` of a captioner: the captions of one shard by the checkpoint's own library."""

from pathlib import Path

import torch

from colport.data.datasets import load_retrieval_dataset
from colport.pipeline import original
from colport.pipeline.job import job
from colport.scoring.generate import caption


def main(snakemake):
    """Write the reference captions of one shard."""
    model, dataset, shard = (snakemake.wildcards[key] for key in ("model", "dataset", "shard"))
    with job(snakemake.log[0], f"{model} pytorch {dataset} {shard}") as log:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reference = original.opened(snakemake, log, device)
        caption(
            reference.generate,
            load_retrieval_dataset(dataset, snakemake.params.dataset, snakemake.input.dataset),
            Path(snakemake.output[0]),
            shard=int(shard),
            **snakemake.params.settings,
            labels={"provider": f"torch-{device}", "weights": reference.room.weights},
            report=log.info,
        )


main(snakemake)
