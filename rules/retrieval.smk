# Embed each dataset with each variant and provider, score with MaxSim, PyTorch beside it.


rule embed:
    input:
        model="results/models/{model}/{variant}",
        dataset="results/datasets/{dataset}.json",
    output:
        directory("results/embeddings/{model}/{variant}/{provider}/{dataset}"),
    log:
        "logs/embed/{model}/{variant}/{provider}/{dataset}.log",
    benchmark:
        "results/benchmarks/embed/{model}/{variant}/{provider}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        batch_size=PLAN.config["encode"]["batch_size"],
        code=PLAN.code("embed.py"),
    script:
        "../scripts/embed.py"


rule score_reference:
    input:
        embeddings="results/reference/{model}/{dataset}",
        dataset="results/datasets/{dataset}.json",
    output:
        "results/retrieval/{model}/pytorch/{dataset}.json",
    log:
        "logs/retrieval/{model}/pytorch/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=PLAN.config["retrieval"],
        code=PLAN.code("score.py"),
    script:
        "../scripts/score.py"


rule score:
    input:
        embeddings="results/embeddings/{model}/{variant}/{provider}/{dataset}",
        dataset="results/datasets/{dataset}.json",
        reference="results/retrieval/{model}/pytorch/{dataset}.json",
    output:
        "results/retrieval/{model}/{variant}/{provider}/{dataset}.json",
    log:
        "logs/retrieval/{model}/{variant}/{provider}/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        settings=PLAN.config["retrieval"],
        code=PLAN.code("score.py"),
    script:
        "../scripts/score.py"
