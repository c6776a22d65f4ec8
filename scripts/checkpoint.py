"""Rule ``checkpoint``: resolve a model's checkpoint and digest its weights."""

from pathlib import Path

from colport.base.files import write_json
from colport.families import registry
from colport.hub import checkpoints
from colport.pipeline.job import job


def main(snakemake):
    """Write where the checkpoint lies and what it is."""
    model = snakemake.params.model
    declaration = model["checkpoint"]
    with job(snakemake.log[0], snakemake.wildcards.model) as log:
        record = checkpoints.record(declaration, model["family"], snakemake.params.workspace)
        log.info("checkpoint %s", record["source"])
        for sentence in record["applied"]:
            log.info(sentence)
        for place in (declaration, declaration.get("base", {})):
            revision = place.get("revision")
            if revision and f"@{revision} " not in f"{record['source']} ":
                log.warning("revision %r is not pinned; pin the commit above", revision)
        registry.require(model["family"], Path(record["folder"]))
        write_json(Path(snakemake.output[0]), record)


main(snakemake)
