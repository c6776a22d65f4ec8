"""Rule ``report``: one self-contained page from the tables."""

from datetime import UTC, datetime
from pathlib import Path

import colport
from colport import environment, report
from colport.artifacts import read_json, write_text
from colport.job import job
from colport.report.operators import read_operators
from colport.report.scenarios import read_scenarios
from colport.tables import read_tables


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
        tables = read_tables(Path(snakemake.input[0]).parent)
        for file in snakemake.input.operators:
            tables["operators"] = read_operators(file)
        for file in snakemake.input.scenarios:
            tables["scenarios"] = read_scenarios(file)
        explained = [read_json(file) for file in snakemake.input.explained]
        page = report.render(tables, run, explained)
        write_text(snakemake.output[0], page)


main(snakemake)
