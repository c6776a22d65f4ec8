# Tables from the stages' records, the page from the tables, and the gate after both.

RECORDS = {
    "export": expand(
        "results/export/{model}/{variant}.json",
        model=PLAN.models,
        variant=PLAN.entrants(),
    ),
    "parity": [
        f"results/parity/{model}/{variant}/{provider}.json"
        for model in PLAN.models
        for variant, provider in PLAN.runs
    ],
    "retrieval": scores("retrieval", PLAN.ranked)
    + expand(
        "results/retrieval/controls/{control}/{dataset}.json",
        control=PLAN.controls,
        dataset=dict.fromkeys(dataset for _, dataset in PLAN.ranked),
    ),
    "captions": scores(
        "captions", [pair for pair in PLAN.pairs if pair not in PLAN.ranked]
    ),
    "mteb": [f"{folder}.json" for folder in MTEB_FOLDERS],
    "operators": PROFILE_FILES,
    "scenarios": SCENARIO_FILES,
    "latency": expand(
        "results/latency/{model}/{provider}.json",
        model=PLAN.models,
        provider=PLAN.providers,
    ),
}

DECLARED = [
    *expand("results/checkpoints/{model}.json", model=PLAN.models),
    *expand("results/datasets/{dataset}.json", dataset=PLAN.datasets),
    *EXPLAIN_FILES,
    *(file for files in RECORDS.values() for file in files),
]
BENCHMARKS = [
    f"results/benchmarks/{file.removeprefix('results/').removesuffix('.json')}.tsv"
    for file in DECLARED
]
BENCHMARKS += expand("results/benchmarks/proof/{model}.tsv", model=PLAN.models)
BENCHMARKS += expand("results/benchmarks/standard/{model}.tsv", model=PLAN.captioners)


rule aggregate:
    input:
        shard_benchmarks,
        **RECORDS,
        benchmarks=BENCHMARKS,
    output:
        TABLE_FILES,
    log:
        "logs/aggregate.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        **PLAN.script("aggregate.py"),
        min_agreement=PLAN.config["retrieval"]["min_agreement"],
        published=PLAN.published,
    script:
        "../scripts/run.py"


rule report:
    input:
        TABLE_FILES,
        EXPLAIN_FILES,
        RECORDS["latency"],
    output:
        page=report(
            "results/report.html",
            caption="../docs/report/page.rst",
            category="Report",
            labels={"report": "recommendation, charts and tables"},
        ),
        charts=report(
            directory("results/charts"),
            patterns=["{subject}/{chart}.svg"],
            caption="../docs/report/chart.rst",
            category="Charts",
            subcategory="{subject}",
            labels={"chart": "{chart}", "of": "{subject}"},
        ),
        tables=report(
            directory("results/pages"),
            patterns=["{table}.html"],
            caption="../docs/report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/report.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        **PLAN.script("report.py"),
        run=PLAN.config["run"],
        against=PLAN.config["report"]["against"],
    script:
        "../scripts/run.py"


rule gate:
    # After the report, so that a failed parity can be read there before it fails the run.
    input:
        TABLE_FILES,
        parity="results/tables/parity.csv",
        report="results/report.html",
    output:
        "results/gate.json",
    log:
        "logs/gate.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        **PLAN.script("gate.py"),
        allow_failed_parity=PLAN.config["run"]["allow_failed_parity"],
    script:
        "../scripts/run.py"
