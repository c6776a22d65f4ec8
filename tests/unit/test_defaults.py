"""What a config need not say: names to choose from, the demo's choice, the settings' defaults."""

import re
from pathlib import Path

import pytest
import yaml

from colport.base.errors import ConfigError
from colport.pipeline import config as configuration
from colport.pipeline import defaults, variants
from colport.pipeline.plan import SCHEMA, Plan
from colport.providers import PROVIDERS

ROOT = Path(__file__).parents[2]
DEMO = configuration.load(ROOT / "config/config.yaml")
DECLARED = configuration.load(ROOT / SCHEMA)["properties"]
MINE = {
    "run": {"models": ["mine"]},
    "models": {
        "mine": {
            "family": "colpali",
            "checkpoint": {"path": "resources/checkpoints/colpali-demo"},
            "datasets": ["demo-pages-qa"],
        }
    },
}


def plan(*configs, folder, base=ROOT):
    files = []
    for number, config in enumerate(configs):
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return Plan.load(files, base)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stated(section, declared):
    """Every setting of a section that a config states, with its default."""
    for key, value in section.items():
        inner = declared.get("properties", {}).get(key, {})
        if isinstance(value, dict) and "properties" in inner:
            yield from stated(value, inner)
        else:
            yield key, value, inner.get("default")


@pytest.mark.parametrize("name", sorted(set(DECLARED) & set(DEMO)))
def test_the_demo_states_no_default(name):
    if "additionalProperties" not in DECLARED[name] or DECLARED[name].get("properties"):
        for key, value, default in stated(DEMO[name], DECLARED[name]):
            assert value != default, key


def test_a_run_of_ones_own_models_has_nothing_of_the_demo(folder):
    found = plan(MINE, folder=folder)
    assert (found.models, found.variants, found.providers) == (["mine"], ["fp32", "int8"], ["cpu"])
    assert found.forms == {}
    sections = {"latency", "scenarios", "parity", "retrieval", "encode"}
    assert sections & set(DEMO)
    for name in sections:
        for key, value, default in stated(found.config[name], DECLARED[name]):
            assert value == default, (name, key)
    for name, variant in found.config["variants"].items():
        assert variant == variants.get(name)


def test_a_file_that_names_no_models_changes_the_demo(folder):
    found = plan({"run": {"variants": ["int4"]}, "latency": {"rounds": 9}}, folder=folder)
    assert found.models == DEMO["run"]["models"]
    assert found.variants == ["int4", "fp32"]
    assert list(found.forms) == DEMO["run"]["embeddings"]
    expected = DEMO["latency"] | {"rounds": 9}
    assert {key: found.config["latency"][key] for key in expected} == expected


def test_every_name_of_the_readme_is_defined(folder):
    text = " ".join((ROOT / "README.md").read_text().split())
    listed = {}
    for noun in ("Variants", "Providers"):
        (sentence,) = re.findall(rf"\. {noun}: (`[^.]*?)(?:, with weights|, each with)", text)
        listed[noun.lower()] = re.findall(r"`([\w-]+)`", sentence)
    assert listed["variants"] == sorted(variants.ready_made(), key=listed["variants"].index)
    assert listed["providers"] == list(PROVIDERS)
    found = plan(MINE | {"run": {"models": ["mine"], **listed}}, folder=folder)
    assert (found.variants, found.providers) == (listed["variants"], listed["providers"])


@pytest.mark.parametrize("name", ["thorough", "peers", "vidore"])
def test_a_shipped_file_over_the_demo_and_under_ones_own(name, folder):
    shipped = (ROOT / f"config/{name}.yaml").read_text()
    latency = yaml.safe_load(shipped).get("latency", {})
    found = plan(shipped, MINE, folder=folder)
    assert found.models == ["mine"]
    assert found.providers == ["cpu"]
    assert found.forms == {}
    assert {key: found.config["latency"][key] for key in latency} == latency
    assert found.config["scenarios"]["server"]["confidence"] == 0.99


def test_what_the_working_directory_has_under_the_same_name(folder):
    (folder / "config").mkdir()
    file = folder / "config/config.yaml"
    file.write_bytes((ROOT / "config/config.yaml").read_bytes())
    assert defaults.own_files(ROOT) == []  # a copy is the demo still
    assert plan(MINE, folder=folder).forms == {}
    file.write_text(yaml.safe_dump(MINE | {"latency": {"rounds": 3}}))
    found = plan(folder=folder)
    assert (found.models, found.timing["rounds"]) == (["mine"], 3)
    assert plan({"latency": {"rounds": 4}}, folder=folder).timing["rounds"] == 4


def test_a_list_is_replaced_and_a_mapping_merged(folder):
    cpu = {"providers": {"cpu": {"threads": 2}}, "latency": {"batch_sizes": [2, 4]}}
    found = plan(MINE, cpu, {"latency": {"batch_sizes": [3]}}, folder=folder)
    assert found.config["providers"]["cpu"] == {"threads": 2, "type": "cpu"}
    assert found.timing["batch_sizes"] == [3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("run: 5", "run: found 5 (int), expected object"),
        ("run: [models]", "run: found a list, expected object"),
        ("run: {models: }", "run.models: found nothing, expected array"),
        ("variants:", "variants: found nothing, expected object"),
        ("- run", "holds a list, expected a mapping"),
    ],
)
def test_what_is_no_mapping_is_named(config, message, folder):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(config, folder=folder)
