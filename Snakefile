# ColPort: late-interaction retrieval models from a checkpoint to ONNX Runtime, with the proof.
# `snakemake --cores all` runs the demo; config/README.md explains the config.
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
include: "rules/checkpoint.smk"
include: "rules/reference.smk"
include: "rules/export.smk"
include: "rules/quantize.smk"
include: "rules/peers.smk"
include: "rules/parity.smk"
include: "rules/retrieval.smk"
include: "rules/explain.smk"
include: "rules/latency.smk"
include: "rules/operators.smk"
include: "rules/scenarios.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report.html",
        "results/gate.json",


rule models:
    input:
        MODEL_FOLDERS,


rule tables:
    input:
        TABLE_FILES,


onstart:
    runs.claim(on_cluster=not workflow.local_exec)
    if workflow.local_exec:
        # With its limit of jobs a second, Snakemake (9.27) leaves a timer behind each finished job that
        # wakes the scheduler once a second as long as a job waits: after 300 jobs a third of a core.
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    runs.release()


onerror:
    runs.release()
