"""Rule ``report``: one self-contained page from the tables, and its figures as files."""

from datetime import UTC, datetime

import colport
from colport.base.files import write_text
from colport.base.foreign import local
from colport.pipeline.job import job
from colport.report import Report, files, inputs
from colport.report.sections import against


def main(snakemake):
    """Write ``results/report.html``, its charts and its tables."""
    with job(snakemake.log[0], "report"):
        tables, explained, environment = inputs.read(snakemake.input)
        run = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "colport_version": colport.__version__,
            "environment": environment,
            "settings": snakemake.params.run,
            "allow_failed_parity": snakemake.params.run["allow_failed_parity"],
        }
        other = snakemake.params.against
        compared = against.read(local(other), "results") if other else None
        report = Report(tables, run, explained, compared)
        write_text(snakemake.output.page, report.html())
        files.write_charts(report, snakemake.output.charts)
        files.write_tables(report, snakemake.output.tables)


main(snakemake)
