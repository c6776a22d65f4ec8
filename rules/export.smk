# Trace on the meta device, stream the weights, lay out the external data; then run the folder on
# built-in inputs, whose embeddings by the checkpoint's own library all exports of a model share.


rule proof:
    input:
        checkpoint="results/checkpoints/{model}.json",
    output:
        "results/proofs/{model}.npz",
    log:
        "logs/proof/{model}.log",
    benchmark:
        "results/benchmarks/proof/{model}.tsv"
    priority: 40
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("proof"),
    params:
        **PLAN.script("proof.py"),
    script:
        "../scripts/run.py"


rule export:
    input:
        checkpoint="results/checkpoints/{model}.json",
        proof="results/proofs/{model}.npz",
    output:
        folder=directory("results/models/{model}/{variant}"),
        record="results/export/{model}/{variant}.json",
    log:
        "logs/export/{model}/{variant}.log",
    benchmark:
        "results/benchmarks/export/{model}/{variant}.tsv"
    wildcard_constraints:
        variant=PLAN.pattern(PLAN.exported),
    priority: 30
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("export"),
    params:
        **PLAN.script("export.py"),
        variant=lambda wildcards: PLAN.config["variants"][wildcards.variant],
    script:
        "../scripts/run.py"
