"""Rule ``peer_export``: the checkpoint exported by a peer."""

from pathlib import Path

from colport.base.errors import UnsupportedError
from colport.base.files import read_json, write_json, write_unsupported
from colport.peers import catalogue, environments, export
from colport.pipeline.job import job


def main(snakemake):
    """Write the peer's folder and its record, or the error that it gave."""
    output, given = Path(snakemake.output.folder), snakemake.input
    resolved = read_json(given.checkpoint)
    labels = {**dict(snakemake.wildcards.items()), "family": resolved["family"]}
    with job(snakemake.log[0], f"{labels['model']} {labels['variant']}") as log:
        environment = given.get("environment")
        installed = read_json(environment) if environment else environments.own()
        try:
            exported = export.export(
                catalogue.get(labels["variant"]),
                output,
                resolved=resolved,
                installed=installed,
                base=Path(given["base"]) if given.get("base") else None,
                timeout_s=snakemake.params.timeout_s,
                log=Path(snakemake.log[0]),
            )
            record = export.record(labels, exported, output, installed)
        except UnsupportedError as limit:
            log.info("%s: %s", limit.status, limit)
            write_unsupported(output, str(limit), limit.status)
            record = export.not_exported(labels, limit, installed)
        write_json(snakemake.output.record, record)


main(snakemake)
