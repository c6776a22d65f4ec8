"""Rule ``quantize``: write one variant from another variant's folder."""

import time
from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import write_json, write_unsupported
from colport.data.datasets import load_retrieval_dataset
from colport.export import record
from colport.pipeline import proof
from colport.pipeline.job import job
from colport.quantize.folder import quantize
from colport.quantize.settings import QuantizeSettings
from colport.tensors.external_data import Layout


def main(snakemake):
    """Write the quantized folder and its record, or the known limit that prevents it."""
    model, name = snakemake.wildcards.model, snakemake.wildcards.variant
    variant, output = snakemake.params.variant, Path(snakemake.output.folder)
    labels = {"model": model, "family": snakemake.params.family, "variant": name}
    with job(snakemake.log[0], f"{model} {name}") as log:
        start = time.perf_counter()
        settings = QuantizeSettings.from_config(variant)
        layout = Layout(**variant.get("external_data", {}))
        try:
            dataset = None
            if settings.is_calibrated:
                dataset = load_retrieval_dataset(
                    snakemake.params.calibration,
                    snakemake.params.dataset,
                    snakemake.input.calibration[0],
                )
            base = Path(snakemake.input.base)
            scratch = snakemake.resources.get("scratch")
            # What it loses is a result, which parity and the gate judge once all is measured.
            prove = proof.by_base(base, variant.get("tolerance"), log.info, strict=False)
            manifest = quantize(
                *(base, output, settings, layout, log.info),
                dataset=dataset,
                scratch=scratch,
                prove=prove,
            )
            result = record.record(manifest, output, labels, record.cost_since(start))
        except UnsupportedError as limit:
            write_unsupported(output, str(limit))
            result = record.unsupported(labels, str(limit))
        write_json(snakemake.output.record, result)


main(snakemake)
