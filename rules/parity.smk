# Each variant and provider against the PyTorch reference, end to end.


rule parity:
    input:
        model=lambda wildcards: PLAN.folder(wildcards.model, wildcards.variant),
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
        reference=lambda wildcards: (
            f"results/reference/{wildcards.model}/{PLAN.first(wildcards.model)}/0"
        ),
        shards=lambda wildcards: shards(
            "results/reference/{model}/{dataset}",
            first=PLAN.config["parity"]["inputs"],
            model=wildcards.model,
            dataset=PLAN.first(wildcards.model),
        ),
    output:
        "results/parity/{model}/{variant}/{provider}.json",
    log:
        "logs/parity/{model}/{variant}/{provider}.log",
    benchmark:
        "results/benchmarks/parity/{model}/{variant}/{provider}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("parity"),
    params:
        **PLAN.script("parity.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        tolerance=lambda wildcards: PLAN.tolerance(wildcards.variant),
        settings=PLAN.config["parity"],
    script:
        "../scripts/run.py"
