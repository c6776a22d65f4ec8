# Embeddings of the PyTorch reference: once a model and dataset, reused by every comparison.


rule reference:
    input:
        checkpoint="results/checkpoints/{model}.json",
        dataset="results/datasets/{dataset}.json",
    output:
        directory("results/reference/{model}/{dataset}"),
    log:
        "logs/reference/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/reference/{model}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        batch_size=PLAN.config["encode"]["batch_size"],
        code=PLAN.code("reference.py"),
    script:
        "../scripts/reference.py"
