"""A setting is one entry: the config's schema and the tables of its page follow from it.

So is a column of a table, see test_columns; its page is written by the same program.
"""

import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from colport.base import declared
from colport.base.errors import ConfigError
from colport.cli.evaluation import parity
from colport.providers import PROVIDERS, ProviderSettings
from colport.scoring.statistics import RESAMPLES
from colport.timing.server.settings import ScenarioSettings, ServerSettings
from colport.timing.settings import LatencySettings

ROOT = Path(__file__).parents[2]
PAGE, SCHEMA = "config/README.md", "config/schemas/config.schema.yaml"
COLUMNS = "results/README.md"
SECTIONS = yaml.safe_load((ROOT / SCHEMA).read_text())["properties"]


SCRIPT = ROOT / "config/schemas/generate.py"


def test_schema_and_page_are_those_of_the_settings():
    command = [sys.executable, SCRIPT, "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def program():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        specification = importlib.util.spec_from_file_location("generate", SCRIPT)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module


@pytest.fixture
def generate(program, monkeypatch, capsys):
    """Run the script's main: exit code and standard error."""

    def call(*arguments, root):
        monkeypatch.setattr(sys, "argv", ["generate.py", "--root", str(root), *arguments])
        with pytest.raises(SystemExit) as end:
            program.main()
        if isinstance(end.value.code, str):
            return 1, f"{end.value.code}\n"
        return int(end.value.code), capsys.readouterr().err

    return call


def test_a_file_that_differs_is_named_and_written_again(generate, tmp_path):
    for file, old, new in (
        (SCHEMA, "default: 2000", "default: 1000"),
        (PAGE, "| `2000` |", "| `1000` |"),
        (COLUMNS, "as a JSON list", "as a list"),
    ):
        text = (ROOT / file).read_text()
        assert text.count(old) == 1
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text.replace(old, new))
    code, said = generate("--check", root=tmp_path)
    assert code == 1
    assert [line.split(":")[0] for line in said.splitlines()] == [SCHEMA, PAGE, COLUMNS]
    assert generate(root=tmp_path) == (0, "")
    for file in (SCHEMA, PAGE, COLUMNS):
        assert (tmp_path / file).read_text() == (ROOT / file).read_text()


@pytest.mark.parametrize(
    ("file", "place", "wrong", "message"),
    [
        (PAGE, "settings of latency", "settings of late", "'late' is no setting."),
        (COLUMNS, "columns of latency", "columns of late", "'late' is no table."),
    ],
)
def test_a_place_that_is_not_there_is_an_error(file, place, wrong, message, generate, tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / COLUMNS, tmp_path / COLUMNS)
    page = tmp_path / file
    page.write_text(page.read_text().replace(f"{place} -->", f"{wrong} -->"))
    said = f"{file}: <!-- {wrong} -->: {message}\n"
    assert generate("--check", root=tmp_path) == (1, said)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (SECTIONS["latency"], LatencySettings()),
        (SECTIONS["scenarios"], ScenarioSettings()),
        (SECTIONS["scenarios"]["properties"]["offline"], ScenarioSettings().offline),
        (SECTIONS["scenarios"]["properties"]["server"], ScenarioSettings().server),
    ],
)
def test_code_has_the_defaults_of_the_config(section, settings):
    for name, entry in section["properties"].items():
        if hasattr(settings, name) and "default" in entry and entry.get("type") != "object":
            found = getattr(settings, name)
            assert (list(found) if isinstance(found, tuple) else found) == entry["default"], name


def test_the_command_and_the_statistics_have_them_too():
    assert SECTIONS["retrieval"]["properties"]["resamples"]["default"] == RESAMPLES == 2000
    inputs = inspect.signature(parity).parameters["inputs"].default
    assert SECTIONS["parity"]["properties"]["inputs"]["default"] == inputs == 48


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds: found 0; expected at least 1."),
        ({"precision": -0.1}, "precision: found -0.1; expected at least 0."),
        ({"timeout_s": 0}, "timeout_s: found 0; expected more than 0."),
        ({"min_seconds": float("nan")}, "min_seconds: found nan; expected at least 0."),
        ({"max_memory_mb": 0}, "max_memory_mb: found 0; expected at least 1."),
        ({"max_seconds": 0.1}, "max_seconds: found 0.1; expected at least min_seconds, 0.5."),
    ],
)
def test_code_may_give_what_the_config_may(given, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        LatencySettings(**given)


PROVIDER_KEYS = SECTIONS["providers"]["additionalProperties"]["properties"]


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_provider_takes_no_key_that_the_config_does_not_know(name):
    assert set(PROVIDERS[name].keys) <= set(PROVIDER_KEYS)


@pytest.mark.parametrize("key", ["threads", "inter_op_threads", "memory_limit_mb"])
def test_code_has_the_bounds_of_a_provider_s_keys(key):
    entry, largest = PROVIDER_KEYS[key], PROVIDER_KEYS[key].get("maximum")
    for value in (entry["minimum"], largest or 2**20):
        ProviderSettings.from_config("cuda", {key: value})
    for value in (entry["minimum"] - 1, *([largest + 1] if largest else [])):
        with pytest.raises(ConfigError, match=rf"{key}: found {value} .*whole number from 1"):
            ProviderSettings.from_config("cuda", {key: value})


def test_a_word_that_some_provider_takes_is_one_of_the_config():
    words = {
        "fallback": ("allowed", "forbidden"),
        "precision": ("fp32", "fp16", "bf16", "accuracy"),
    }
    assert {key: tuple(PROVIDER_KEYS[key]["enum"]) for key in words} == words


def test_a_word_is_one_of_those_allowed():
    rule = declared.Allowed(enum=("one", "two"))
    assert rule.expected("three") == "allowed are one, two"
    assert rule.expected("two") == ""


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0,), r"batch_sizes: found \(0,\); expected at least 1\.$"),
        ([8, -1], "expected at least 1"),
        ([8, 1, 8], "expected different ones"),
        ((), "expected at least 1 of them"),
    ],
)
def test_items_of_a_list_are_held_to_their_rules(sizes, message):
    with pytest.raises(ConfigError, match=message):
        ScenarioSettings(offline={"batch_sizes": sizes})


@pytest.mark.parametrize("share", [0.0, 1.0, 2.0])
def test_upper_bounds_hold_in_code_too(share):
    with pytest.raises(
        ConfigError, match=r"confidence: found .*; expected (more than 0|less than 1)"
    ):
        ScenarioSettings(server=ServerSettings(confidence=share))
