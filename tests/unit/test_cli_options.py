"""What options of the command mean: sizes, checkpoints, layouts, inputs."""

import inspect
import os

import pytest
import typer

from colport.base.errors import CheckpointError, ConfigError, DatasetError
from colport.cli import app, options
from colport.cli.inputs import InputOptions, read_documents
from colport.tensors.external_data import Layout


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("500MB", 500 * 10**6), ("2GB", 2 * 10**9), ("2GiB", 2 * 2**30)),
        *(("1.5 kb", 1500), ("3KiB", 3072), (" 4mib ", 4 * 2**20)),
    ],
)
def test_sizes(text, size):
    assert options._bytes(text) == size


@pytest.mark.parametrize("text", ["0", "0.2", "-1", "2TB", "GB", "1e9", "", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="is no size; write 2GB, 500MB or a number"):
        options._bytes(text)


def test_a_size_means_shards():
    assert options.layout(None, None) == Layout("split")
    assert options.layout(None, 9) == Layout("shard", 9)
    assert options.layout("merge", None) == Layout("merge")
    with pytest.raises(ConfigError, match="is needed for layout 'shard', and only there"):
        options.layout("merge", 9)


def test_every_entry_is_a_parameter_of_a_command():
    taken = {
        name: set(inspect.signature(command.callback).parameters)
        for command in app.registered_commands
        for name in [command.callback.__name__]
    }
    shared = options._DECLARED["shared"].keys()
    assert shared <= set().union(*taken.values())
    for name, entries in options._DECLARED.items():
        assert name == "shared" or entries.keys() <= taken[name]


def test_a_checkpoint_is_a_folder_or_a_hub_id(tmp_path):
    commit = "a" * 40
    assert options.declaration(str(tmp_path)) == {"path": str(tmp_path)}
    assert options.declaration("org/name") == {"hub": "org/name", "revision": "main"}
    assert options.declaration(f"org/name@{commit}", str(tmp_path)) == {
        **{"hub": "org/name", "revision": commit},
        "base": {"path": str(tmp_path)},
    }
    for wrong in ("name", "a/b/c", "org/name@", "./missing/x y", "org/name\n", "org/name@main\n"):
        with pytest.raises(CheckpointError, match="is neither a folder here nor a Hub id"):
            options.declaration(wrong)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (("q", "d", None), True),
        ((None, None, "s"), True),
        (("q", None, None), False),
        ((None, "d", None), False),
        (("q", "d", "s"), False),
        ((None, None, None), False),
    ],
)
def test_inputs_are_whole(given, allowed):
    if allowed:
        assert InputOptions(*given, "qa").schema == "qa"
        return
    with pytest.raises(typer.BadParameter, match="give --queries and --documents, or --dataset"):
        InputOptions(*given, "qa")


def test_inputs_may_be_left_out():
    assert InputOptions.optional(None, None, None, "qa") is None
    assert InputOptions.optional(None, None, "s", "beir").schema == "beir"


def test_the_first_texts_are_read_without_blank_ones(tmp_path):
    queries, passages = tmp_path / "queries.txt", tmp_path / "passages"
    queries.write_text("\n one \n\n two\nthree\n")
    passages.mkdir()
    for name in ("b.md", "a.txt", "c.TXT", "d.png"):
        (passages / name).write_text(f"text of {name}")
    found = InputOptions(queries, passages, None, "qa").read("passages", 2)
    assert found.name == "queries.txt and passages"
    assert found.queries == ["one", "two"]
    assert found.documents == ["text of a.txt", "text of b.md"]
    assert len(read_documents(passages, "passages", 9)) == 3
    assert read_documents(queries, "passages", 9) == ["one", "two", "three"]
    queries.write_text(" \n")
    with pytest.raises(DatasetError, match=r"queries.txt: is empty, expected a text a line"):
        read_documents(queries, "passages", 9)


def test_a_path_that_is_not_utf_8_is_refused_at_once(tmp_path):
    odd = os.fsdecode(b"odd\xff")
    for arguments in (["export", "x", "-o", odd], ["inspect", odd], ["explain", "x", odd]):
        more = ["--query", "a", "--page", "b", "-o", "c"] if arguments[0] == "explain" else []
        with pytest.raises(ConfigError, match=r"odd\\udcff: is not UTF-8"):
            app([*arguments, *more], standalone_mode=False)
