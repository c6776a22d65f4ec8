"""Rule ``reference``: embed one shard of a dataset with the checkpoint's own library."""

from pathlib import Path

import torch

from colport import checkpoints, families
from colport.embed import embed
from colport.job import job
from colport.retrieval.datasets import load_retrieval_dataset


def main(snakemake):
    """Write the reference embeddings of one shard."""
    model, dataset, shard = (snakemake.wildcards[key] for key in ("model", "dataset", "shard"))
    with job(snakemake.log[0], f"{model} pytorch {dataset} {shard}") as log:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        checkpoint = checkpoints.read_record(snakemake.input.checkpoint)
        family = families.get(checkpoint["family"])
        embed(
            family.reference(Path(checkpoint["folder"]), device),
            load_retrieval_dataset(dataset, snakemake.params.dataset, snakemake.input.dataset),
            Path(snakemake.output[0]),
            shard=int(shard),
            **snakemake.params.settings,
            labels={"model": model, "variant": "pytorch", "provider": f"torch-{device}"},
            report=log.info,
        )


main(snakemake)
