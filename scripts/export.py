"""Rule ``export``: trace a checkpoint and write one float variant."""

import time
from functools import partial
from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import write_json, write_unsupported
from colport.export import folder, record
from colport.hub import checkpoints
from colport.pipeline import proof
from colport.pipeline.job import job
from colport.tensors.external_data import Layout


def main(snakemake):
    """Write the exported folder and its record, or the known limit that prevents it."""
    variant, output = snakemake.params.variant, Path(snakemake.output.folder)
    labels = dict(snakemake.wildcards.items())
    with job(snakemake.log[0], f"{labels['model']} {labels['variant']}") as log:
        resolved = checkpoints.read_record(snakemake.input.checkpoint)
        labels["family"] = resolved["family"]
        start = time.perf_counter()
        known = partial(proof.load, Path(snakemake.input.proof))
        try:
            manifest = folder.export(
                Path(resolved["folder"]),
                output,
                family=resolved["family"],
                precision=variant["precision"],
                opset=variant.get("opset", folder.OPSET),
                layout=Layout(**variant.get("external_data", {})),
                source={key: resolved[key] for key in checkpoints.SOURCE_KEYS},
                report=log.info,
                prove=proof.by_checkpoint(known, variant.get("tolerance"), log.info),
            )
            result = record.record(manifest, output, labels, record.cost_since(start))
        except UnsupportedError as limit:
            write_unsupported(output, str(limit))
            result = record.unsupported(labels, str(limit))
        write_json(snakemake.output.record, result)


main(snakemake)
