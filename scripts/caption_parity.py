"""Rule ``parity`` of a captioner: its tokens and logits beside the checkpoint's own library."""

from colport.base.errors import UnsupportedError
from colport.base.files import write_json
from colport.data.datasets import load_retrieval_dataset
from colport.measure import captions, parity
from colport.pipeline import proof
from colport.pipeline.job import job
from colport.scoring.generate import asked


def main(snakemake):
    """Write the parity record; a known limit is a result, too."""
    labels = {key: snakemake.wildcards[key] for key in ("model", "variant", "provider")}
    with job(snakemake.log[0], " ".join(labels.values())):
        settings, dataset = snakemake.params.settings, snakemake.params.dataset
        try:
            captioner = captions.load(snakemake.input.model, snakemake.params.provider)
            read = load_retrieval_dataset("parity", dataset, snakemake.input.dataset)
            record = captions.measure(
                *(captioner, *asked(read, slice(settings["inputs"]))),
                proof.load(snakemake.input.standard),
                settings["batch_sizes"],
                parity.Tolerance(**snakemake.params.tolerance),
                labels,
            )
        except UnsupportedError as limit:
            record = parity.unsupported(labels, limit, [captions.KIND])
        else:
            record["export"] = captioner.manifest.digest
        write_json(snakemake.output[0], record)


main(snakemake)
