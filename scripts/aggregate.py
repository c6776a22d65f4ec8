"""Rule ``aggregate``: the tables, from the records of all stages."""

from pathlib import Path

from colport import tables
from colport.base.files import read_json
from colport.measure import placement
from colport.pipeline.job import job
from colport.scoring import details
from colport.tables import further, summary


def main(snakemake):
    """Write every table as CSV."""
    with job(snakemake.log[0], "tables"):
        records = {
            stage: [read_json(file) for file in snakemake.input[stage]]
            for stage in ("export", "parity", "retrieval", "latency", "captions")
        }
        built = {
            **summary.build(records, snakemake.params.min_agreement),
            **details.build(records["retrieval"], records["captions"]),
        }
        built["captions"] = tables.flatten("captions", records["captions"])
        built["parity_inputs"] = further.parity_inputs(records["parity"])
        built["stages"] = further.stages(file for file in snakemake.input if file.endswith(".tsv"))
        if stated := snakemake.params.published:
            built["published"] = further.published(built["retrieval_intervals"], stated)
        if any(Path(file).stem == "embeddings" for file in snakemake.output):
            built["embeddings"] = further.embeddings(built["retrieval"], records["retrieval"])
        if files := snakemake.input.get("mteb"):
            built["mteb"] = tables.flatten("mteb", map(read_json, files))
        if files := snakemake.input.get("operators"):
            profiles = [read_json(file) for file in files]
            built["operators"] = tables.flatten("operators", profiles)
            placed = ({"rows": profile["placement"]} for profile in profiles)
            built["providers"] = tables.flatten("providers", placed)
            placement.mark_fallback(built["latency"], built["providers"])
        if files := snakemake.input.get("scenarios"):
            built["scenarios"] = tables.flatten("scenarios", map(read_json, files))
        asked = {Path(file).stem for file in snakemake.output}
        built = {name: table for name, table in built.items() if name in asked}
        tables.write_tables(built, Path(snakemake.output[0]).parent)


main(snakemake)
