# Where a call's time goes in each variant: ONNX Runtime's profile, alone, after the timed rounds.

PROFILE_FILES = expand(
    "results/operators/{model}.json",
    model=PLAN.retrievers if PLAN.config["latency"]["profile"] else [],
)


rule operators:
    input:
        models=expand("results/models/{{model}}/{variant}", variant=PLAN.variants),
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
        timed=expand(
            "results/latency/{{model}}/{provider}.json", provider=PLAN.providers
        ),
    output:
        "results/operators/{model}.json",
    log:
        "logs/operators/{model}.log",
    benchmark:
        "results/benchmarks/operators/{model}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: all_cores
    resources:
        **PLAN.needs("operators"),
    params:
        **PLAN.script("operators.py"),
        variants=PLAN.variants,
        providers={name: PLAN.config["providers"][name] for name in PLAN.providers},
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        threads=PLAN.config["latency"].get("threads"),
    script:
        "../scripts/run.py"
