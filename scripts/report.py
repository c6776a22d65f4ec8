"""Rule ``report``: one self-contained page from the tables."""

from datetime import UTC, datetime

import colport
from colport import environment, report
from colport.artifacts import write_text
from colport.job import job
from colport.report import inputs


def main(snakemake):
    """Write ``results/report.html``."""
    with job(snakemake.log[0], "report"):
        run = {
            "title": "ColPort report",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "colport_version": colport.__version__,
            "environment": environment.describe(),
            "settings": snakemake.params.run,
            "allow_failed_parity": snakemake.params.run["allow_failed_parity"],
        }
        tables, explained = inputs.read(snakemake.input)
        page = report.render(tables, run, explained)
        write_text(snakemake.output[0], page)


main(snakemake)
