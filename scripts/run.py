"""The script of every rule: runs the adapter that the rule's parameter ``script`` names.

Snakemake runs a rule again when its script is newer than its outputs. An adapter beside this file
counts by what it does, in the rule's parameter ``code``.
"""

import runpy
from pathlib import Path


def main(snakemake):
    """Run the adapter of the job's rule."""
    adapter = Path(__file__).with_name(snakemake.params.script)
    runpy.run_path(str(adapter), {"snakemake": snakemake})


main(snakemake)
