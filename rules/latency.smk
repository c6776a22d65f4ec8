# PyTorch and every variant of a model on one provider, in one interleaved run, alone.


rule latency:
    input:
        checkpoint="results/checkpoints/{model}.json",
        models=lambda wildcards: [
            PLAN.folder(wildcards.model, variant)
            for variant in PLAN.entrants(wildcards.provider)
        ],
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
    output:
        "results/latency/{model}/{provider}.json",
    log:
        "logs/latency/{model}/{provider}.log",
    benchmark:
        "results/benchmarks/latency/{model}/{provider}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: all_cores
    resources:
        **PLAN.needs("latency"),
    params:
        **PLAN.script("latency.py"),
        variants=lambda wildcards: PLAN.entrants(wildcards.provider),
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        settings=PLAN.timing,
        reference=PLAN.config["reference"],
    script:
        "../scripts/run.py"
