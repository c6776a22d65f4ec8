# Variants that are made from another variant's folder.


rule quantize:
    input:
        base=lambda wildcards: (
            f"results/models/{wildcards.model}/"
            f"{PLAN.config['variants'][wildcards.variant]['base']}"
        ),
        calibration=lambda wildcards: (
            [f"results/datasets/{PLAN.calibration(wildcards.model)}.json"]
            if PLAN.is_calibrated(wildcards.variant)
            else []
        ),
    output:
        folder=directory("results/models/{model}/{variant}"),
        record="results/export/{model}/{variant}.json",
    log:
        "logs/export/{model}/{variant}.log",
    benchmark:
        "results/benchmarks/export/{model}/{variant}.tsv"
    wildcard_constraints:
        variant=PLAN.pattern(PLAN.quantized),
    priority: 20
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("quantize"),
    params:
        **PLAN.script("quantize.py"),
        family=lambda wildcards: PLAN.config["models"][wildcards.model]["family"],
        variant=lambda wildcards: PLAN.config["variants"][wildcards.variant],
        calibration=lambda wildcards: PLAN.calibration(wildcards.model),
        dataset=lambda wildcards: (
            PLAN.config["datasets"][PLAN.calibration(wildcards.model)]
            if PLAN.is_calibrated(wildcards.variant)
            else None
        ),
    script:
        "../scripts/run.py"
