# Each variant and provider against the PyTorch reference, end to end.


rule standard:
    # Tokens and logits of captioners by their own library.
    input:
        checkpoint="results/checkpoints/{model}.json",
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
    output:
        "results/standards/{model}.npz",
    log:
        "logs/standard/{model}.log",
    benchmark:
        "results/benchmarks/standard/{model}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("reference"),
    params:
        **PLAN.script("caption_standard.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        inputs=PLAN.config["parity"]["inputs"],
        reference=PLAN.config["reference"],
    script:
        "../scripts/run.py"


rule parity:
    input:
        model=lambda wildcards: PLAN.folder(wildcards.model, wildcards.variant),
        dataset=lambda wildcards: f"results/datasets/{PLAN.first(wildcards.model)}.json",
        standard=lambda wildcards: (
            f"results/standards/{wildcards.model}.npz"
            if wildcards.model in PLAN.captioners
            else f"results/reference/{wildcards.model}/{PLAN.first(wildcards.model)}/0"
        ),
        shards=lambda wildcards: (
            []
            if wildcards.model in PLAN.captioners
            else shards(
                "results/reference/{model}/{dataset}",
                first=PLAN.config["parity"]["inputs"],
                model=wildcards.model,
                dataset=PLAN.first(wildcards.model),
            )
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
        **PLAN.scripts("parity.py", "caption_parity.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][PLAN.first(wildcards.model)],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        tolerance=lambda wildcards: PLAN.tolerance(wildcards.variant),
        settings=PLAN.config["parity"],
    script:
        "../scripts/run.py"
