# Trace on the meta device, stream the weights, lay out the external data.


rule export:
    input:
        checkpoint="results/checkpoints/{model}.json",
    output:
        folder=directory("results/models/{model}/{variant}"),
        record="results/export/{model}/{variant}.json",
    log:
        "logs/export/{model}/{variant}.log",
    benchmark:
        "results/benchmarks/export/{model}/{variant}.tsv"
    wildcard_constraints:
        variant=PLAN.pattern(PLAN.exported),
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("export"),
    params:
        variant=lambda wildcards: PLAN.config["variants"][wildcards.variant],
        code=PLAN.code("export.py"),
    script:
        "../scripts/export.py"
