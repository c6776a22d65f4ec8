"""Rule ``reference``: embed one shard of a dataset with the checkpoint's own library."""

from pathlib import Path

import torch

from colport.base.names import REFERENCE_VARIANT
from colport.data.datasets import load_retrieval_dataset
from colport.pipeline import original
from colport.pipeline.job import job
from colport.scoring.embed import embed


def main(snakemake):
    """Write the reference embeddings of one shard."""
    model, dataset, shard = (snakemake.wildcards[key] for key in ("model", "dataset", "shard"))
    with job(snakemake.log[0], f"{model} pytorch {dataset} {shard}") as log:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reference = original.opened(snakemake, log, device)
        embed(
            reference,
            load_retrieval_dataset(dataset, snakemake.params.dataset, snakemake.input.dataset),
            Path(snakemake.output[0]),
            shard=int(shard),
            **snakemake.params.settings,
            labels={
                **{"model": model, "variant": REFERENCE_VARIANT, "provider": f"torch-{device}"},
                "weights": reference.room.weights,
            },
            report=log.info,
            query_batch_size=reference.queries_at_once,
        )


main(snakemake)
