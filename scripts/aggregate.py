"""Rule ``aggregate``: the tables, from the records of all stages."""

from pathlib import Path

from colport import tables
from colport.base.files import read_json
from colport.measure import placement
from colport.measure.profile import operator_table
from colport.pipeline.job import job
from colport.scoring import details
from colport.timing.server.rows import scenario_table


def main(snakemake):
    """Write every table as CSV."""
    with job(snakemake.log[0], "tables"):
        records = {
            stage: [read_json(file) for file in snakemake.input[stage]]
            for stage in ("export", "parity", "retrieval", "latency")
        }
        built = {**tables.build(records), **details.build(records["retrieval"])}
        built["parity_inputs"] = tables.parity_inputs(records["parity"])
        built["stages"] = tables.stages(file for file in snakemake.input if file.endswith(".tsv"))
        if files := snakemake.input.get("mteb"):
            built["mteb"] = details.mteb_table(map(read_json, files))
        if files := snakemake.input.get("operators"):
            profiles = [read_json(file) for file in files]
            built["operators"] = operator_table(profiles)
            built["providers"] = placement.table(profiles)
            placement.mark_fallback(built["latency"], built["providers"])
        if files := snakemake.input.get("scenarios"):
            built["scenarios"] = scenario_table(map(read_json, files))
        tables.write_tables(built, Path(snakemake.output[0]).parent)


main(snakemake)
