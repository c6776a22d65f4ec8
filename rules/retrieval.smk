# Embed each dataset with each variant and provider, score with MaxSim, PyTorch beside it. A job
# embeds one shard of the documents; shard 0 holds the queries too. Captioners generate captions,
# which are scored by their references.


rule embed:
    input:
        model=lambda wildcards: PLAN.folder(wildcards.model, wildcards.variant),
        dataset="results/datasets/{dataset}.json",
    output:
        directory("results/embeddings/{model}/{variant}/{provider}/{dataset}/{shard}"),
    log:
        "logs/embed/{model}/{variant}/{provider}/{dataset}/{shard}.log",
    benchmark:
        "results/benchmarks/embed/{model}/{variant}/{provider}/{dataset}/{shard}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("embed"),
    params:
        **PLAN.scripts("embed.py", "caption.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        settings=PLAN.config["encode"],
    script:
        "../scripts/run.py"


rule control:
    input:
        dataset="results/datasets/{dataset}.json",
    output:
        "results/retrieval/controls/{control}/{dataset}.json",
    log:
        "logs/retrieval/controls/{control}/{dataset}.log",
    benchmark:
        "results/benchmarks/retrieval/controls/{control}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("score"),
    params:
        **PLAN.script("control.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        settings=PLAN.scoring,
    script:
        "../scripts/run.py"


rule score_reference:
    input:
        first="results/reference/{model}/{dataset}/0",
        shards=lambda wildcards: shards(
            "results/reference/{model}/{dataset}", **wildcards
        ),
        dataset="results/datasets/{dataset}.json",
    output:
        "results/{quality}/{model}/pytorch/{dataset}.json",
    log:
        "logs/{quality}/{model}/pytorch/{dataset}.log",
    benchmark:
        "results/benchmarks/{quality}/{model}/pytorch/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("score"),
    params:
        **PLAN.scripts("score.py", "score_captions.py"),
        settings=PLAN.scoring,
        forms=PLAN.forms,
    script:
        "../scripts/run.py"


rule score:
    input:
        first="results/embeddings/{model}/{variant}/{provider}/{dataset}/0",
        shards=lambda wildcards: shards(
            "results/embeddings/{model}/{variant}/{provider}/{dataset}", **wildcards
        ),
        dataset="results/datasets/{dataset}.json",
        reference="results/{quality}/{model}/pytorch/{dataset}.json",
    output:
        "results/{quality}/{model}/{variant}/{provider}/{dataset}.json",
    log:
        "logs/{quality}/{model}/{variant}/{provider}/{dataset}.log",
    benchmark:
        "results/benchmarks/{quality}/{model}/{variant}/{provider}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("score"),
    params:
        **PLAN.scripts("score.py", "score_captions.py"),
        settings=PLAN.scoring,
        forms=PLAN.forms,
    script:
        "../scripts/run.py"


MTEB_FOLDERS = [
    folder
    for model, dataset in PLAN.ranked
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
    benchmark:
        "results/benchmarks/mteb/{model}/{variant}/{provider}/{dataset}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("mteb"),
    params:
        **PLAN.script("evaluate_mteb.py"),
        dataset=lambda wildcards: PLAN.config["datasets"][wildcards.dataset],
        provider=lambda wildcards: PLAN.config["providers"][wildcards.provider],
        batch_size=PLAN.config["encode"].get("batch_size", BATCH_SIZE),
    script:
        "../scripts/run.py"
