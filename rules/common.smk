# Config, wildcards and the few functions that several rules share.
import shlex
import sys
from pathlib import Path

from snakemake.settings.types import SharedFSUsage

# Not workflow.basedir, which is another workflow's where this one is a module.
BASE = Path(str(workflow.current_basedir)).parent
SCRIPTS = BASE / "scripts"
sys.path.insert(0, str(SCRIPTS))
# Snakemake (9.27) puts it into command lines as it is, also where its path has a space.
sys.executable = shlex.quote(sys.executable)

from colport.base.foreign import not_text
from colport.families.base import BATCH_SIZE
from colport.pipeline import defaults, plan, runs
from colport.peers.catalogue import VARIANTS as PEERS

runs.name_user()
if workflow.is_main_process:  # its jobs read this file, too
    runs.announce()

for file in defaults.own_files(BASE):

    configfile: file


# Files are looked at here, once, unless jobs have other files or packages.
LOOKS = (
    workflow.is_main_process
    and not workflow.deployment_settings.deployment_method
    and SharedFSUsage.SOFTWARE_DEPLOYMENT in workflow.storage_settings.shared_fs_usage
)
PLAN = plan.Plan.read(config, BASE, is_job=not LOOKS)

MODEL_FOLDERS = expand(
    "results/models/{model}/{variant}", model=PLAN.models, variant=PLAN.variants
)
TABLE_FILES = expand("results/tables/{table}.csv", table=PLAN.tables)


wildcard_constraints:
    model=PLAN.pattern(PLAN.models),
    variant=PLAN.pattern([*PLAN.variants, *PEERS]),
    provider=PLAN.pattern(PLAN.providers),
    dataset=PLAN.pattern(PLAN.datasets),
    control=PLAN.pattern(PLAN.controls),
    quality="retrieval|captions",
    shard=r"\d+",


def local_files(declaration):
    """What a checkpoint or dataset is read from here, also if results lie in an object store.

    Files whose names Snakemake cannot write are left to the job that finds them.
    """
    return [local(file) for file in plan.local_files(declaration) if not not_text(file)]


def shards(folder, first=None, **names):
    """Shards with all documents, or with the first ones, once their number is known."""
    record = checkpoints.dataset.get(dataset=names["dataset"]).output[0]
    return expand(f"{folder}/{{shard}}", shard=PLAN.shards(record, first), **names)


def shard_benchmarks(wildcards):
    """Benchmarks of the jobs whose number only the datasets' records say."""
    folders = [
        f"results/benchmarks/embed/{{model}}/{variant}/{provider}/{{dataset}}"
        for variant, provider in PLAN.runs
    ]
    folders.append("results/benchmarks/reference/{model}/{dataset}")
    return [
        f"{file}.tsv"
        for model, dataset in PLAN.pairs
        for folder in folders
        for file in shards(folder, model=model, dataset=dataset)
    ]


def scores(quality, pairs):
    """Records of the scores of models on their datasets, PyTorch's and each variant's."""
    places = ["pytorch", *(f"{variant}/{provider}" for variant, provider in PLAN.runs)]
    return [
        f"results/{quality}/{model}/{place}/{dataset}.json"
        for model, dataset in pairs
        for place in places
    ]


def all_cores(wildcards):
    """Threads of a job that must run alone on the machine."""
    return workflow.cores
