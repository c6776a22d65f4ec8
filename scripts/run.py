"""The script of every rule: runs the adapter that the rule's parameter ``script`` names.

Snakemake runs a rule again when its script is newer than its outputs. An adapter beside this file
counts by what it does, in the rule's parameter ``code``.
"""

import gc
import runpy
from pathlib import Path


def main(snakemake):
    """Run the adapter of the job's rule."""
    adapter = Path(__file__).with_name(snakemake.params.script)
    runpy.run_path(str(adapter), {"snakemake": snakemake})


# Imports and traces make millions of objects that stay: by Python's default, looking through them
# again and again for cycles takes a sixth of a short job.
gc.set_threshold(100_000)
main(snakemake)
