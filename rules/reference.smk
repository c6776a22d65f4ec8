# Embeddings or captions of the PyTorch reference: once a model and dataset, reused by every comparison.
# Shard 0 holds the queries too.


rule reference:
    input:
        checkpoint="results/checkpoints/{model}.json",
        dataset="results/datasets/{dataset}.json",
    output:
        directory("results/reference/{model}/{dataset}/{shard}"),
    log:
        "logs/reference/{model}/{dataset}/{shard}.log",
    benchmark:
        "results/benchmarks/reference/{model}/{dataset}/{shard}.tsv"
    priority: 10
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("reference"),
    params:
        **PLAN.scripts("reference.py", "caption_reference.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        settings=PLAN.config["encode"],
        reference=PLAN.config["reference"],
    script:
        "../scripts/run.py"
