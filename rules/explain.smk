# Heat maps of which patch matched which query token, PyTorch beside each variant.

EXPLAIN_FILES = [
    f"results/explain/{model}/{dataset}.json" for model, dataset in PLAN.explained
]


rule explain:
    input:
        models=expand("results/models/{{model}}/{variant}", variant=PLAN.variants),
        dataset="results/datasets/{dataset}.json",
        reference="results/reference/{model}/{dataset}/0",
        reference_record="results/retrieval/{model}/pytorch/{dataset}.json",
        embeddings=expand(
            "results/embeddings/{{model}}/{variant}/{provider}/{{dataset}}/0",
            variant=PLAN.variants,
            provider=PLAN.providers,
        ),
        records=expand(
            "results/retrieval/{{model}}/{variant}/{provider}/{{dataset}}.json",
            variant=PLAN.variants,
            provider=PLAN.providers,
        ),
    output:
        "results/explain/{model}/{dataset}.json",
    log:
        "logs/explain/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/explain/{model}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("explain"),
    params:
        **PLAN.script("explain.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        variants=PLAN.variants,
        providers=PLAN.providers,
    script:
        "../scripts/run.py"
