"""Rules ``score`` and ``score_reference`` of a captioner: captions beside their references."""

from colport.base.errors import UnsupportedError
from colport.base.files import read_json, write_json
from colport.base.names import REFERENCE_VARIANT
from colport.pipeline.job import job
from colport.scoring.captions import caption_record
from colport.scoring.generate import read_generated
from colport.scoring.record import unsupported_record


def main(snakemake):
    """Write the record of the captions of one model, variant, provider and dataset."""
    labels = {
        "variant": REFERENCE_VARIANT,
        "provider": "torch",
        **dict(snakemake.wildcards.items()),
    }
    labels.pop("quality")
    with job(snakemake.log[0], " ".join(labels.values())):
        try:
            captions, made = read_generated(snakemake.input.first)
            labels["provider"] = made["provider"]
            dataset, reference = (
                read_json(snakemake.input.dataset),
                snakemake.input.get("reference"),
            )
            record = caption_record(
                labels,
                captions,
                dataset["references"],
                read_json(reference)["captions"] if reference else None,
                snakemake.params.settings,
                are_answers=dataset["are_answers"],
            )
        except UnsupportedError as limit:
            record = unsupported_record(labels, limit, "captions")
        write_json(snakemake.output[0], record)


main(snakemake)
