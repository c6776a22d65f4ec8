# Resolve checkpoints and datasets, once, before anything is computed.


rule checkpoint:
    input:
        lambda wildcards: local_files(
            PLAN.config["models"][wildcards.model]["checkpoint"]
        ),
    output:
        "results/checkpoints/{model}.json",
    log:
        "logs/checkpoint/{model}.log",
    benchmark:
        "results/benchmarks/checkpoints/{model}.tsv"
    priority: 50
    retries: 2
    localrule: PLAN.config["local_downloads"]
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("checkpoint"),
    params:
        **PLAN.script("checkpoint.py"),
        model=lambda wildcards: PLAN.config["models"][wildcards.model],
        workspace="results/checkpoints/{model}",
        files=lambda wildcards: plan.fingerprint(
            PLAN.config["models"][wildcards.model]["checkpoint"]
        ),
    script:
        "../scripts/run.py"


checkpoint dataset:
    # A checkpoint, since its number of documents says how many shards are embedded.
    input:
        lambda wildcards: local_files(PLAN.config["datasets"][wildcards.dataset]),
    output:
        "results/datasets/{dataset}.json",
    log:
        "logs/dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/datasets/{dataset}.tsv"
    priority: 50
    localrule: PLAN.config["local_downloads"]
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("dataset"),
    params:
        **PLAN.script("dataset.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        files=lambda wildcards: plan.fingerprint(
            PLAN.config["datasets"][wildcards.dataset]
        ),
        read_by=lambda wildcards: PLAN.limiting(wildcards.dataset),
    script:
        "../scripts/run.py"
