"""Rule ``peer_environment``: the environment of a peer, from its pinned requirement set."""

from pathlib import Path

from colport.base.files import write_json
from colport.peers.environments import build
from colport.pipeline.job import job


def main(snakemake):
    """Write what is installed, or why nothing can be."""
    output = Path(snakemake.output[0])
    with job(snakemake.log[0], f"environment {snakemake.wildcards.environment}") as log:
        record = build(Path(snakemake.input[0]), output.with_suffix(""), log.info)
        write_json(output, record)


main(snakemake)
