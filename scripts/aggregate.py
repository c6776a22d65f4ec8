"""Rule ``aggregate``: the five tables, from the records of all stages."""

from pathlib import Path

from colport import tables
from colport.artifacts import read_json
from colport.job import job


def main(snakemake):
    """Write every table as CSV."""
    with job(snakemake.log[0], "tables"):
        records = {
            stage: [read_json(file) for file in snakemake.input[stage]]
            for stage in ("export", "parity", "retrieval", "latency")
        }
        tables.write_tables(tables.build(records), Path(snakemake.output[0]).parent)


main(snakemake)
