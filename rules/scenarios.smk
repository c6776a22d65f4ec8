# Single stream, offline and server: every variant beside PyTorch, alone.

SCENARIO_FILES = expand(
    "results/scenarios/{model}/{provider}.json",
    model=PLAN.retrievers if PLAN.config["scenarios"]["run"] else [],
    provider=PLAN.providers,
)


rule scenarios:
    input:
        checkpoint="results/checkpoints/{model}.json",
        models=expand("results/models/{{model}}/{variant}", variant=PLAN.variants),
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
    output:
        "results/scenarios/{model}/{provider}.json",
    log:
        "logs/scenarios/{model}/{provider}.log",
    benchmark:
        "results/benchmarks/scenarios/{model}/{provider}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: all_cores
    resources:
        **PLAN.needs("scenarios"),
    params:
        **PLAN.script("scenarios.py"),
        variants=PLAN.variants,
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        settings=PLAN.config["scenarios"],
        threads=PLAN.config["latency"].get("threads"),
        affinity=PLAN.config["latency"]["affinity"],
        reference=PLAN.config["reference"],
    script:
        "../scripts/run.py"
