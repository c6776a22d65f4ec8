# Peers: the same checkpoints exported by others, each in an environment of its own.


rule peer_environment:
    # Needs the network. The folder beside the record is kept until its requirements change.
    input:
        str(PLAN.base / "envs/peers/{environment}.txt"),
    output:
        ".peers/{environment}.json",
    log:
        "logs/peers/{environment}.log",
    wildcard_constraints:
        environment="[a-z-]+",
    localrule: PLAN.config["local_downloads"]
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("peer_environment"),
    params:
        **PLAN.script("peer_environment.py"),
    script:
        "../scripts/run.py"


rule peer_export:
    input:
        unpack(lambda wildcards: PLAN.peer_inputs(wildcards.model, wildcards.variant)),
        checkpoint="results/checkpoints/{model}.json",
    output:
        folder=directory("results/peers/{model}/{variant}"),
        record="results/export/{model}/{variant}.json",
    log:
        "logs/export/{model}/{variant}.log",
    benchmark:
        "results/benchmarks/export/{model}/{variant}.tsv"
    wildcard_constraints:
        variant=PLAN.pattern(PEERS),
    conda:
        "../envs/cpu.yaml"
    resources:
        **PLAN.needs("peer_export"),
    params:
        **PLAN.script("peer_export.py"),
        timeout_s=PLAN.config["peers"]["timeout_s"],
    script:
        "../scripts/run.py"
