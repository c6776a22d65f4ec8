"""What each rule reads, runs and asks for, as Snakemake itself reads the rules."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from colport.base.files import SCHEMA_VERSION
from colport.pipeline import sources

from .conftest import ROOT, Workspace

DUMP = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
from snakemake import checkpoints
from snakemake.api import SnakemakeApi
from snakemake.settings.types import *

root, config, named = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, str(root / "scripts"))
from colport.pipeline import needs
needs.needs = lambda config, stage: {f"needs_{stage}": 1}  # which stage's a rule asks for
wildcards = type("Wildcards", (dict,), {"__getattr__": dict.__getitem__})(named)
# The dataset's job is done, so that it is known how many shards there are.
checkpoints.Checkpoint.get = lambda rule, **named: SimpleNamespace(output=["counts.json"])


def value(item):
    if callable(item):
        item = item(wildcards)
    if isinstance(item, dict):
        return {str(key): value(entry) for key, entry in item.items()}
    if isinstance(item, (list, tuple)):
        return [value(entry) for entry in item]
    return item if isinstance(item, (int, float, bool, type(None))) else str(item)


def fields(items):
    places = dict(items._get_names())
    taken = {place for first, last in places.values() for place in range(first, last or first + 1)}
    found = {
        name: value(items[first] if last is None else items[first:last])
        for name, (first, last) in places.items()
    }
    rest = [value(item) for place, item in enumerate(items) if place not in taken]
    return {**found, "": rest} if rest else found


def described(rule):
    return {
        "inputs": fields(rule.input),
        "outputs": [str(item) for item in rule.output],
        "params": fields(rule.params),
        "log": [str(item) for item in rule.log],
        "benchmark": str(rule.benchmark or ""),
        "script": Path(rule.script or "").name,
        "resources": [name for name in rule.resources if name.startswith("needs_")],
        "alone": "all_cores" in repr(vars(rule.resources["_cores"])),
        "is_checkpoint": rule.is_checkpoint,
        "local": rule.name in rule.workflow._localrules,
    }


with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(cores=2),
        config_settings=ConfigSettings(configfiles=[config]),
        snakefile=root / "Snakefile",
    )._workflow
    print("RULES" + json.dumps({rule.name: described(rule) for rule in workflow.rules}))
"""
NAMED = {
    **{"model": "colpali-demo", "variant": "int8-calibrated", "provider": "cpu"},
    **{"dataset": "demo-pages-qa", "control": "bm25", "environment": "optimum"},
    "quality": "retrieval",
}
CARD = {"metric": "ndcg_at_5", "source": "a card", "scores": {"demo-pages-beir": 0.9}}
CONFIG = {
    "run": {
        **{"models": ["colpali-demo"], "variants": ["int8-calibrated"], "providers": ["cpu"]},
        "embeddings": ["pooled-3-binary"],
    },
    "models": {
        "colpali-demo": {
            "checkpoint": {"path": "model"},
            "datasets": ["demo-pages-qa", "demo-pages-beir"],
            "calibration": "demo-pages-beir",
            "published": {"card": CARD},
        }
    },
    "datasets": {"demo-pages-qa": {"path": "pages"}},
    "scenarios": {"run": ["server"]},
    "latency": {"profile": True, "threads": 3, "affinity": False},
    "encode": {"batch_size": 5, "shard_documents": 3},
    "reference": {"memory_mb": 4000},
    "parity": {"inputs": 7},
    "retrieval": {"seed": 9, "mteb": True},
    "peers": {"timeout_s": 11},
}
LOCAL = {"checkpoint": "model/deep/notes.txt", "dataset": "pages/data/test.parquet"}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Rule to what it is, each time that the rules are read."""
    workspace = Workspace(tmp_path_factory.mktemp("rules"))
    config = workspace.folder / "changed.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    demo = ROOT / "resources/checkpoints/colpali-demo"
    shutil.copytree(demo, workspace.folder / "model")
    for file in LOCAL.values():
        (workspace.folder / file).parent.mkdir(parents=True)
        (workspace.folder / file).write_text("old")
    counted = {"schema_version": SCHEMA_VERSION, "counts": {"documents": 10}}
    (workspace.folder / "counts.json").write_text(json.dumps(counted))

    def dump():
        command = [sys.executable, "-c", DUMP, str(ROOT), str(config), json.dumps(NAMED)]
        done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.rpartition("RULES")[2])

    dump.folder = workspace.folder
    return dump


@pytest.fixture(scope="module")
def rules(read):
    return read()


RECORD, DATASET = "results/checkpoints/{model}.json", "results/datasets/{dataset}.json"
MODELS = [f"results/models/{{model}}/{name}" for name in ("int8-calibrated", "fp32")]
MODEL = "results/models/colpali-demo/int8-calibrated"
PLACE = "colpali-demo/int8-calibrated/cpu/demo-pages-qa"
FIRST = "results/datasets/demo-pages-qa.json"  # of the model's datasets
SCORES = "results/retrieval/{model}/{variant}/{provider}/{dataset}.json"
INPUTS = {
    "reference": {"checkpoint": RECORD, "dataset": DATASET},
    "proof": {"checkpoint": RECORD},
    "export": {"checkpoint": RECORD, "proof": "results/proofs/{model}.npz"},
    "quantize": {
        "base": "results/models/colpali-demo/fp32",
        "calibration": ["results/datasets/demo-pages-beir.json"],
    },
    "parity": {
        "model": MODEL,
        "dataset": FIRST,
        "standard": "results/reference/colpali-demo/demo-pages-qa/0",
        "shards": [f"results/reference/colpali-demo/demo-pages-qa/{i}" for i in range(3)],
    },
    "standard": {"checkpoint": RECORD, "dataset": FIRST},
    "embed": {"model": MODEL, "dataset": DATASET},
    "control": {"dataset": DATASET},
    "score_reference": {
        "first": "results/reference/{model}/{dataset}/0",
        "shards": [f"results/reference/colpali-demo/demo-pages-qa/{i}" for i in range(4)],
        "dataset": DATASET,
    },
    "score": {
        "first": "results/embeddings/{model}/{variant}/{provider}/{dataset}/0",
        "shards": [f"results/embeddings/{PLACE}/{i}" for i in range(4)],
        "dataset": DATASET,
        "reference": "results/{quality}/{model}/pytorch/{dataset}.json",
    },
    "mteb": {"model": "results/models/{model}/{variant}", "dataset": DATASET, "score": SCORES},
    "explain": {
        "models": MODELS,
        "dataset": DATASET,
        "reference": "results/reference/{model}/{dataset}/0",
        "reference_record": "results/retrieval/{model}/pytorch/{dataset}.json",
        "embeddings": [
            f"results/embeddings/{{model}}/{name}/cpu/{{dataset}}/0"
            for name in ("int8-calibrated", "fp32")
        ],
        "records": [
            f"results/retrieval/{{model}}/{name}/cpu/{{dataset}}.json"
            for name in ("int8-calibrated", "fp32")
        ],
    },
    "latency": {
        "checkpoint": RECORD,
        "models": [name.format(model="colpali-demo") for name in MODELS],
        "dataset": FIRST,
    },
    "operators": {
        "models": MODELS,
        "dataset": FIRST,
        "timed": ["results/latency/{model}/cpu.json"],
    },
    "scenarios": {"checkpoint": RECORD, "models": MODELS, "dataset": FIRST},
}
STAGES = {  # where a rule asks for another one's memory and time, or for none
    **{"control": "score", "score_reference": "score", "standard": "reference"},
    **dict.fromkeys(("aggregate", "report", "gate")),
}


def test_a_changed_file_of_a_checkpoint_or_dataset_is_noticed(rules, read):
    """It is an input, whose time Snakemake watches, or what the rule is changes with it."""
    for file in LOCAL.values():
        (read.folder / file).write_text("new content")
    changed = read()
    for name, file in LOCAL.items():
        listed = file in json.dumps(rules[name]["inputs"])
        assert listed or rules[name] != changed[name], name


@pytest.mark.parametrize("rule", INPUTS)
def test_what_a_job_reads(rules, rule):
    assert rules[rule]["inputs"] == INPUTS[rule]


def test_every_job_has_its_code_log_benchmark_and_needs(rules):
    jobs = {name: rule for name, rule in rules.items() if rule["script"]}
    assert set(jobs) == set(rules) - {"all", "models", "tables"}
    for name, rule in jobs.items():
        adapter = ROOT / "scripts" / rule["params"]["script"]
        assert rule["params"]["code"] == sources.code_hash(adapter), name
        assert rule["script"] == "run.py", "its time may not change with what a docstring says"
        stage = STAGES.get(name, name)
        assert rule["resources"] == ([f"needs_{stage}"] if stage else []), name
        assert rule["alone"] == (name in ("latency", "operators", "scenarios")), name
        assert rule["is_checkpoint"] == (name == "dataset"), name
        assert rule["local"] == (stage is None), name
        (log,) = rule["log"]
        assert log.startswith("logs/"), name
        # Neither is shared by two jobs of a rule.
        files = [
            *rule["outputs"],
            log,
            *([rule["benchmark"]] if stage != "peer_environment" else []),
        ]
        wildcards = [set(re.findall(r"{(\w+)", file)) for file in files if file]
        assert all(found == wildcards[0] for found in wildcards), name
        assert bool(rule["benchmark"]) == (stage not in (None, "peer_environment")), name


@pytest.mark.parametrize(
    ("rule", "script"),
    [
        *(
            (name, f"{name}.py")
            for name in ("checkpoint", "dataset", "reference", "export", "quantize")
        ),
        *((name, f"{name}.py") for name in ("parity", "embed", "control", "score", "explain")),
        *((name, f"{name}.py") for name in ("latency", "operators", "scenarios", "report", "gate")),
        *(
            ("score_reference", "score.py"),
            ("standard", "caption_standard.py"),
            ("mteb", "evaluate_mteb.py"),
            ("aggregate", "aggregate.py"),
        ),
    ],
)
def test_what_a_job_runs(rules, rule, script):
    assert rules[rule]["params"]["script"] == script


QA, BEIR = {"path": "pages", "schema": "qa"}, "resources/datasets/demo-pages-beir"
ENCODE, VARIANTS = CONFIG["encode"], ["int8-calibrated", "fp32"]
CPU, REFERENCE = {"type": "cpu"}, CONFIG["reference"]
SETTINGS = [
    ("checkpoint", {"workspace": "results/checkpoints/{model}"}),
    ("dataset", {"dataset": QA, "read_by": ["colpali", "colqwen2"]}),
    ("reference", {"dataset": QA, "settings": ENCODE, "reference": REFERENCE}),
    ("embed", {"dataset": QA, "settings": ENCODE, "provider": CPU}),
    ("quantize", {"calibration": "demo-pages-beir", "family": "colpali"}),
    ("quantize", {"dataset": {"path": BEIR, "schema": "beir"}}),
    ("parity", {"dataset": QA, "tolerance": {"min_cosine": 0.975}, "provider": CPU}),
    ("parity", {"settings": {"inputs": 7, "batch_sizes": [1, 8]}}),
    ("standard", {"dataset": QA, "inputs": 7, "reference": REFERENCE}),
    *((name, {"settings": {"resamples": 2000, "seed": 9}}) for name in ("score", "control")),
    ("control", {"dataset": QA}),
    ("score_reference", {"settings": {"resamples": 2000, "seed": 9}}),
    ("mteb", {"dataset": QA, "batch_size": 5, "provider": CPU}),
    ("explain", {"dataset": QA, "variants": VARIANTS, "providers": ["cpu"]}),
    ("latency", {"dataset": QA, "variants": VARIANTS, "provider": CPU, "reference": REFERENCE}),
    ("operators", {"dataset": QA, "variants": VARIANTS, "threads": 3, "providers": {"cpu": CPU}}),
    ("scenarios", {"dataset": QA, "variants": VARIANTS, "provider": CPU, "reference": REFERENCE}),
    ("scenarios", {"threads": 3, "affinity": False}),
    ("aggregate", {"min_agreement": 0.9}),
    ("aggregate", {"published": {"colpali-demo": {"card": {**CARD, "of": 1}}}}),
    ("report", {"against": ""}),
    ("gate", {"allow_failed_parity": False}),
    ("peer_export", {"timeout_s": 11}),
]


@pytest.mark.parametrize(("rule", "params"), SETTINGS)
def test_settings_reach_the_jobs_that_they_are_of(rules, rule, params):
    found = rules[rule]["params"]
    assert {name: found[name] for name in params} == params


def test_score_and_reference_store_the_same_forms(rules):
    found = rules["score"]["params"]["forms"]
    assert found == rules["score_reference"]["params"]["forms"]
    assert found["pooled-3-binary"] == {"pooling": 3, "storage": "binary"}
    timed = rules["latency"]["params"]["settings"]
    assert "profile" not in timed
    assert (timed["threads"], timed["affinity"]) == (3, False)


SEEN = {  # in other tests
    **{"checkpoint": {"model", "files"}, "dataset": {"files"}, "latency": {"settings"}},
    **{"export": {"variant"}, "quantize": {"variant"}, "scenarios": {"settings"}},
    **{"report": {"run"}, "score": {"forms"}, "score_reference": {"forms"}},
}


def test_no_setting_is_left_out_above(rules):
    for name, rule in rules.items():
        seen = {key for known, params in SETTINGS if known == name for key in params}
        assert set(rule["params"]) - {"script", "code"} == seen | SEEN.get(name, set()), name


def test_settings_that_are_whole_sections(rules):
    found = {name: rule["params"] for name, rule in rules.items()}
    model = CONFIG["models"]["colpali-demo"] | {"family": "colpali"}
    del model["published"]  # for which no checkpoint is read again
    assert found["checkpoint"]["model"] == model
    for name in ("export", "quantize"):
        assert found[name]["variant"]["quantization"]["rounding"] == "gptq"
    assert found["scenarios"]["settings"]["run"] == ["server"]
    assert found["report"]["run"]["models"] == ["colpali-demo"]


def test_the_tables_are_made_of_every_record(rules):
    variants, datasets = ("int8-calibrated", "fp32"), ("demo-pages-qa", "demo-pages-beir")
    found, model = rules["aggregate"]["inputs"], "colpali-demo"
    shards = [f"embed/{model}/{name}/cpu" for name in variants] + [f"reference/{model}"]
    assert sorted(found[""][0]) == sorted(
        f"results/benchmarks/{place}/{dataset}/{i}.tsv"
        for place in shards
        for dataset in datasets
        for i in range(4)
    )
    records = {
        "export": [f"export/{model}/{name}" for name in variants],
        "parity": [f"parity/{model}/{name}/cpu" for name in variants],
        "retrieval": [
            *(
                f"retrieval/{model}/{name}/{dataset}"
                for dataset in datasets
                for name in ("pytorch", *(f"{variant}/cpu" for variant in variants))
            ),
            *(
                f"retrieval/controls/{control}/{dataset}"
                for control in ("shuffled", "bm25")
                for dataset in datasets
            ),
        ],
        "mteb": [f"mteb/{model}/{name}/cpu/{dataset}" for dataset in datasets for name in variants],
        "operators": [f"operators/{model}"],
        "scenarios": [f"scenarios/{model}/cpu"],
        "latency": [f"latency/{model}/cpu"],
    }
    every = [name for names in records.values() for name in names]
    for stage, names in records.items():
        assert found[stage] == [f"results/{name}.json" for name in names]
    measured = [f"checkpoints/{model}", *(f"datasets/{name}" for name in datasets)]
    measured += [f"proof/{model}", f"explain/{model}/demo-pages-qa", *every]
    assert sorted(found["benchmarks"]) == sorted(f"results/benchmarks/{n}.tsv" for n in measured)
    tables = [f"results/tables/{name}.csv" for name in ("summary", "export", "parity", "retrieval")]
    for rule in ("report", "gate"):
        assert set(tables) < set(rules[rule]["inputs"][""])
    assert rules["aggregate"]["outputs"] == rules["tables"]["inputs"][""]
    assert rules["gate"]["inputs"]["report"] == "results/report.html"
    assert rules["all"]["inputs"][""] == ["results/report.html", "results/gate.json"]
    assert f"results/latency/{model}/cpu.json" in rules["report"]["inputs"][""]
    assert f"results/explain/{model}/demo-pages-qa.json" in rules["report"]["inputs"][""]
