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


rule control:
    input:
        "results/datasets/{dataset}.json",
    output:
        "results/retrieval/controls/{control}/{dataset}.json",
    log:
        "logs/retrieval/controls/{control}/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        settings=PLAN.scoring,
        code=PLAN.code("control.py"),
    script:
        "../scripts/control.py"


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
        settings=PLAN.scoring,
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
        settings=PLAN.scoring,
        code=PLAN.code("score.py"),
    script:
        "../scripts/score.py"


MTEB_FOLDERS = [
    folder
    for model, dataset in PLAN.pairs()
    for folder in expand(
        "results/mteb/{model}/{variant}/{provider}/{dataset}",
        model=model,
        variant=PLAN.variants,
        provider=PLAN.providers,
        dataset=dataset,
    )
    if PLAN.config["retrieval"]["mteb"]
]


rule mteb:
    input:
        model="results/models/{model}/{variant}",
        dataset="results/datasets/{dataset}.json",
        score="results/retrieval/{model}/{variant}/{provider}/{dataset}.json",
    output:
        results=directory("results/mteb/{model}/{variant}/{provider}/{dataset}"),
        record="results/mteb/{model}/{variant}/{provider}/{dataset}.json",
    log:
        "logs/mteb/{model}/{variant}/{provider}/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        batch_size=PLAN.config["encode"]["batch_size"],
        code=PLAN.code("evaluate_mteb.py"),
    script:
        "../scripts/evaluate_mteb.py"
