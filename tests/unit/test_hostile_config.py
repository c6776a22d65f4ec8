"""Configurations and command lines of any content: a sentence or an exit code, no traceback."""

import copy
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colport import cli
from colport.base.errors import ConfigError
from colport.pipeline import config as configuration
from colport.pipeline import defaults

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "config/schemas/config.schema.yaml"
WHOLE = defaults.complete({}, ROOT)
SECTIONS = configuration.load(SCHEMA)["properties"]
ANY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["fp32", "int8", "../x", "a\n", "\0", "[", 10**400, "qa", "1e-3", -1, 0]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
fuzzed = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def places(value, path=()):
    """The path to every value of a document."""
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from places(item, (*path, key))


PLACES = [path for path in places(WHOLE) if path]


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(PLACES), ANY), min_size=1, max_size=3))
def test_any_value_at_any_place_of_the_config(changes):
    config = copy.deepcopy(WHOLE)
    for (*above, key), value in changes:
        parent = config
        try:
            for step in above:
                parent = parent[step]
            parent[key] = value
        except (KeyError, TypeError, IndexError):
            continue  # an earlier change has taken its place
    try:
        configuration.validated(config, SCHEMA)
    except ConfigError as error:
        # One sentence that begins with the place, or with the whole if that is not to be read.
        assert re.match(rf"'?({'|'.join(SECTIONS)}|config)\b", str(error)), error  # noqa: PT017
        assert len(str(error)) < 5000  # noqa: PT017


@pytest.mark.parametrize("name", ["fp32\n", "a\0b", "a\tb", "\x1b[2J"])
def test_names_without_control_characters(name):
    config = copy.deepcopy(WHOLE)
    config["variants"][name] = {"precision": "fp32"}
    with pytest.raises(ConfigError, match="holds a control character"):
        configuration.validated(config, SCHEMA)
    config = copy.deepcopy(WHOLE)
    config["run"]["variants"] = [name]
    with pytest.raises(ConfigError, match="holds a control character"):
        configuration.validated(config, SCHEMA)


def yaml_bomb(levels=25):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [yaml_bomb(), "a: &a [*a]", "a: &a {b: *a}", "x: [[[" + "[" * 60])
def test_configs_that_never_end(text, tmp_path):
    if "[[[" in text:
        text += "]" * 63
    config = WHOLE | yaml.safe_load(text)
    with pytest.raises(ConfigError, match="has more than 100000 values, or deeper than 50 levels"):
        configuration.validated(config, SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- one", "holds a list, expected a mapping"),
        *((text, "is not valid YAML") for text in ("run: [unclosed", "a: \0", "[" * 5000)),
        ("!!python/object:os.x {}", "is not valid YAML"),
        ("", "holds nothing, expected a mapping"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_config(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config.yaml: {message}"):
        configuration.load(tmp_path / "config.yaml")


WORDS = st.one_of(
    st.sampled_from(
        [
            *("export", "quantize", "split", "merge", "shard", "inspect", "parity", "push"),
            *("compare", "explain", "-o", "--output", "--variant", "int8", "--layout", "shard"),
            *("--max-shard-bytes", "1e400", "-1", "0", "nan", "2GB", "--dataset", "--schema"),
            *("--queries", "--documents", "--base", "--family", "--exclude", "(", "--json"),
            *("~nobody/x", "../x", "/dev/null", "/", "a/b", "a/b@../c", "", ".", "--", "-q"),
            *("--verify", "--dry-run", "--help", "é\u202e", "x" * 5000),
        ]
    ),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=5),
)


@settings(fuzzed, max_examples=60)
@given(st.lists(WORDS, max_size=6))
def test_any_command_line_ends_with_an_exit_code(tmp_path, monkeypatch, arguments):
    """0, 1 with one sentence, or 2; no other exception gets out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["colport", *arguments])
    before, hook = signal.getsignal(signal.SIGTERM), sys.excepthook
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.excepthook = hook
    assert code in (0, 1, 2)
