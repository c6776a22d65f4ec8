"""Rule ``gate``: fail the run when a variant failed its parity, unless the config allows it."""

from pathlib import Path

from colport import tables
from colport.artifacts import write_json
from colport.errors import ParityError
from colport.job import job


def main(snakemake):
    """Write which rows failed, or end the run with them."""
    allowed = snakemake.params.allow_failed_parity
    with job(snakemake.log[0], "gate") as log:
        failed = tables.failed_parity(tables.read_tables(Path(snakemake.input.parity).parent))
        if failed and not allowed:
            raise ParityError(
                f"parity failed: {'; '.join(failed)}. See {snakemake.input.report}; set "
                "run.allow_failed_parity: true to accept."
            )
        for line in failed:
            log.info("parity failed, allowed by the config: %s", line)
        write_json(snakemake.output[0], {"failed_parity": failed, "allowed": allowed})


main(snakemake)
