"""Rule ``export``: trace a checkpoint and write one float variant."""

from pathlib import Path

from colport.artifacts import read_json, write_json
from colport.export import folder, record
from colport.external_data import Layout
from colport.job import job


def main(snakemake):
    """Write the exported folder and its record."""
    model, name = snakemake.wildcards.model, snakemake.wildcards.variant
    variant = snakemake.params.variant
    with job(snakemake.log[0], f"{model} {name}") as log:
        watch = record.Stopwatch()
        checkpoint = read_json(snakemake.input[0])
        output = Path(snakemake.output.folder)
        manifest = folder.export(
            Path(checkpoint["folder"]),
            output,
            family=checkpoint["family"],
            precision=variant["precision"],
            layout=Layout.from_config(variant.get("external_data", {})),
            source={key: checkpoint[key] for key in ("source", "weights")},
            report=log.info,
        )
        labels = {"model": model, "family": manifest.family, "variant": name}
        write_json(snakemake.output.record, record.record(manifest, output, labels, watch.cost()))


main(snakemake)
