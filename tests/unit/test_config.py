"""Every config mistake is one sentence: the field, what was found, what is allowed."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

from colport.base.errors import ConfigError
from colport.base.files import write_json
from colport.pipeline import config as configuration
from colport.pipeline import defaults
from colport.pipeline.plan import SCHEMA, Plan, check

ROOT = Path(__file__).parents[2]
DEFAULT = defaults.complete({}, ROOT)


def validated(**changes):
    """The default config with dotted keys replaced; ``...`` deletes one."""
    config = copy.deepcopy(DEFAULT)
    for path, value in changes.items():
        *parents, last = path.split("__")
        entry = config
        for key in parents:
            entry = entry[key.replace("_-", "-")]
        if value is ...:
            del entry[last]
        else:
            entry[last] = value
    return configuration.validated(config, ROOT / SCHEMA)


def stating(**changes):
    card = {"metric": "ndcg_at_5", "source": "a card", "scores": {"charts": 0.8}, **changes}
    card = {key: value for key, value in card.items() if value is not ...}
    return {"models__colpali-demo__published": {"card": card}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rnu": {}}, "rnu: unknown key; allowed are datasets, embeddings, encode"),
        ({"latency__round": 3}, "latency.round: unknown key; allowed are affinity"),
        ({"latency__rounds": "five"}, r"latency.rounds: found 'five' \(str\), expected integer"),
        (
            {"variants__fp32__tolerance": {"max_abs_diff": "1e-3"}},
            r"variants.fp32.tolerance.max_abs_diff: .* \(YAML reads 1e-3 as text; write 1.0e-3\)",
        ),
        ({"run__models": ["colpalli"]}, r"run.models\[0\]: 'colpalli' is not defined; defined are"),
        ({"run__variants": ["fp8"]}, r"run.variants\[0\]: 'fp8' is not defined"),
        ({"run__providers": ["gpu"]}, r"run.providers\[0\]: 'gpu' is not defined"),
        ({"run__models": []}, "run.models"),
        (stating(metric="ndcg"), "published.card.metric: found 'ndcg'; allowed are ndcg_at_1,"),
        (stating(source=...), "models.colpali-demo.published.card.source: is missing"),
        (stating(scores={"charts": 84.75}), "84.75 is greater than the maximum of 1"),
        (stating(scores={"charts": float("nan")}), "scores.charts: found nan; allowed are numbers"),
        (stating(scores={"charts": True}), r"scores.charts: found True \(bool\), expected number"),
        (stating(scores={"chart": 0.8}), r"published.card.scores: 'chart' is not defined; "),
        (stating(scores={}), "published.card.scores"),
        (
            stating(gain="linear"),
            "published.card.gain: unknown key; allowed are metric, scores",
        ),
        ({"variants__fp32": {"precision": "fp8"}}, "precision: found 'fp8'; allowed are fp32,"),
        ({"variants__int8": {"precision": "int8"}}, "variants.int8.base: is missing"),
        (
            {"variants__fp16": {"precision": "int4", "base": "int8"}},
            "variants.fp16.base: 'int8' is int8; int4 is made from a float one",
        ),
        (
            {"variants__int8__opset": 21},
            "variants.int8.opset: a variant of precision int8 has its base's",
        ),
        (
            {"models__colpali-demo__calibration": "absent"},
            "models.colpali-demo.calibration: 'absent' is not defined",
        ),
        (
            {"variants__int8__quantization": {"operators": ["Conv"]}},
            r"operators\[0\]: found 'Conv'; allowed are MatMul, Gather",
        ),
        (
            {"variants__fp32__external_data": {"layout": "shard"}},
            "variants.fp32.external_data.max_shard_bytes: is needed for layout shard",
        ),
        ({"models__colpali-demo__checkpoint": {}}, "needs exactly one of hub, path, package"),
        (
            {"models__colpali-demo__checkpoint": {"hub": "vidore/colpali-v1.3-hf"}},
            "models.colpali-demo.checkpoint.revision: is missing; a hub id needs its commit",
        ),
        (
            {
                "models__colpali-demo__checkpoint": {
                    "hub": "vidore/colpali-v1.3-hf",
                    "revision": "../main",
                }
            },
            "revision: found '../main', which does not match",
        ),
        ({"models__colpali-demo__datasets": ["docvqa"]}, r"datasets\[0\]: 'docvqa' is not defined"),
        ({"datasets__demo-pages-qa__schema": "v9"}, "schema: found 'v9'; allowed are qa, beir"),
        ({"datasets__demo-pages-qa__path": ...}, "demo-pages-qa: needs exactly one of hub, path"),
        ({"run__embeddings": ["half"]}, r"run.embeddings\[0\]: 'half' is not defined; defined are"),
        (
            {"embeddings__int8": {"storage": "int4"}},
            "embeddings.int8.storage: found 'int4'; allowed are float32, float16, int8, binary",
        ),
        ({"embeddings__int8": {"pool": 2}}, "embeddings.int8.pool: unknown key; allowed are pool"),
        ({"embeddings__int8": {"pooling": 0}}, "embeddings.int8.pooling: 0 is less than"),
        ({"embeddings__int8": {}}, "embeddings.int8: "),
        ({"encode": {"shard_documents": 0}}, "encode.shard_documents: 0 is less than the minimum"),
        ({"models": ...}, "models: is missing"),
        (
            {"models__colpali-demo__family": ..., "models__colpali-demo__familly": "colpali"},
            "models.colpali-demo.family: is missing; found is familly",
        ),
        ({"models__../escape": {}}, "escape"),
    ],
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        validated(**changes)


def test_pages_for_a_text_model_are_refused():
    config = validated(**{"models__minilm-colbert__datasets": ["demo-pages-qa"]})
    with pytest.raises(ConfigError, match="'demo-pages-qa' holds pages, family colbert reads"):
        check(config)


CAPTIONS = {"path": "photos", "schema": "captions"}
CAPTIONER = {"family": "git", "checkpoint": {"path": "git"}, "datasets": ["photos"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models__colpali-demo__datasets": ["photos"]},
            r"colpali-demo\.datasets\[0\]: 'photos' holds captions, family colpali reads pages",
        ),
        (
            {"models__git": {**CAPTIONER, "datasets": ["demo-pages-qa"]}},
            r"git\.datasets\[0\]: 'demo-pages-qa' holds pages, family git reads captions",
        ),
        (
            {"models__git": {**CAPTIONER, "calibration": "demo-pages-qa"}},
            r"git\.calibration: 'demo-pages-qa' holds pages",
        ),
        (
            {"run__models": ["git"], "run__peers": ["optimum"]},
            r"run\.peers: no peer exports a captioner; found model 'git'",
        ),
    ],
)
def test_tasks_and_datasets_that_do_not_fit_are_refused(changes, message):
    config = validated(datasets__photos=CAPTIONS, **{"models__git": CAPTIONER, **changes})
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_retrievers_and_captioners_run_in_one_config():
    config = validated(
        datasets__photos=CAPTIONS, models__git=CAPTIONER, run__models=["colpali-demo", "git"]
    )
    check(config)
    plan = Plan(config, ROOT)
    assert (plan.retrievers, plan.captioners) == (["colpali-demo"], ["git"])
    assert {model for model, _ in plan.ranked} == {"colpali-demo"}
    assert ("git", "photos") in plan.pairs
    assert {"retrieval", "captions", "caption_items"} <= set(plan.tables)
    assert [model for model, _ in plan.explained] == ["colpali-demo"]
    adapters = plan.scripts("embed.py", "caption.py")
    chosen = [adapters["script"](SimpleNamespace(model=name)) for name in ("git", "colpali-demo")]
    assert chosen == ["caption.py", "embed.py"]


def test_an_unknown_family_is_refused():
    config = validated(**{"models__minilm-colbert__family": "colbart"})
    message = "models.minilm-colbert.family: 'colbart' is unknown; allowed are .*colbert, .*colpali"
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_no_form_is_called_as_full_embeddings_are():
    with pytest.raises(ConfigError, match=r"embeddings\.full: stands for what a model gives"):
        check(validated(embeddings={"full": {"pooling": 2}}, run__embeddings=["full"]))


def test_smaller_embeddings_are_asked_for_by_name():
    config = validated(embeddings__pooled={"pooling": 2}, run__embeddings=["pooled", "int8"])
    forms = Plan.read(config, ROOT).forms
    assert forms == {"pooled": {"pooling": 2}, "int8": {"storage": "int8"}}
    assert validated(run__embeddings=..., embeddings=...)["embeddings"] == {}
    assert Plan.read(validated(run__embeddings=..., embeddings=...), ROOT).forms == {}


@pytest.mark.parametrize(
    ("documents", "first", "shards"),
    [(1, None, [0]), (50, None, [0]), (51, None, [0, 1]), (120, 51, [0, 1]), (20, 48, [0])],
)
def test_shards_of_a_dataset(tmp_path, documents, first, shards):
    write_json(tmp_path / "d.json", {"counts": {"documents": documents}})
    plan = Plan.read(validated(encode={"shard_documents": 50}), ROOT)
    assert list(plan.shards(tmp_path / "d.json", first)) == shards


def test_defaults_are_filled_in_and_not_shared():
    config = validated(latency=...)
    assert config["latency"]["rounds"] == 10
    assert config["parity"] == {"inputs": 48, "batch_sizes": [1, 8]}
    config["parity"]["batch_sizes"].append(3)
    assert validated()["parity"]["batch_sizes"] == [1, 8]


def test_every_key_is_documented():
    text = (ROOT / "config/README.md").read_text()

    def keys(schema):
        for name, entry in schema.get("properties", {}).items():
            yield name
            yield from keys(entry)
        for name in ("additionalProperties", "items"):
            if isinstance(schema.get(name), dict):
                yield from keys(schema[name])

    missing = {key for key in keys(configuration.load(ROOT / SCHEMA)) if f"`{key}`" not in text}
    assert missing == set()


def test_the_plan_adds_the_base_of_a_quantized_variant():
    config = copy.deepcopy(DEFAULT)
    config["run"]["variants"] = ["int8"]
    plan = Plan.read(config, ROOT)
    assert plan.variants == ["int8", "fp32"]
    assert plan.quantized == ["int8"]
    assert plan.exported == ["fp32"]
    assert plan.pattern(["a.b", "c+"]) == r"a\.b|c\+"


def test_scores_of_page_models_are_explained_on_their_first_dataset():
    plan = Plan.read(copy.deepcopy(DEFAULT), ROOT)
    assert plan.explained == [
        (model, "demo-pages-qa") for model in ("colpali-demo", "colqwen2-demo")
    ]


def test_the_full_integer_range_runs_only_where_it_is_exact(capsys):
    full = {"range": "full"}

    def plan(**changes):
        return Plan.read(validated(variants__int8__quantization=full, **changes), ROOT)

    assert plan(run__providers=["cpu", "cuda"])
    assert plan(run__providers=["openvino"], run__variants=["fp32"])
    aside = {"type": "openvino", "threads": 2}
    with pytest.raises(SystemExit):
        plan(providers__aside=aside, run__providers=["cpu", "aside"])
    assert capsys.readouterr().err == (
        "error in the config: variants.int8.quantization.range: found full, whose sums may "
        "saturate on provider 'aside'; allowed are exact, or providers of type cpu and cuda only.\n"
    )
