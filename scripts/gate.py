"""Rule ``gate``: fail the run for what the report shows as failed, unless the config allows it."""

from pathlib import Path

from colport.base.files import write_json
from colport.pipeline import gate
from colport.pipeline.job import job
from colport.tables import read_tables


def main(snakemake):
    """Write which parity rows failed, or end the run with them."""
    allowed = snakemake.params.allow_failed_parity
    with job(snakemake.log[0], "gate") as log:
        tables = read_tables(Path(snakemake.input.parity).parent)
        failed = gate.check(tables, allow_failed_parity=allowed)
        for line in failed:
            log.info("parity failed, allowed by the config: %s", line)
        write_json(snakemake.output[0], {"failed_parity": failed, "allowed": allowed})


main(snakemake)
