"""Each benchmark is a module with a command line of its own, run from the root."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import shlex
import signal
import subprocess
import sys

import pytest
import typer

from benchmarks import command
from colport.base.errors import ConfigError
from tests.conftest import ROOT

NAMES = (
    "export",
    "reference",
    "graphs",
    "maxsim",
    "corpus",
    "providers",
    "throughput",
    "real_size",
    "headline",
)


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_an_example_that_parses(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    signal.signal(signal.SIGTERM, handler)
    assert not end.value.code
    help_text = capsys.readouterr().out
    assert f"Usage: python -m benchmarks.{name} [OPTIONS]" in help_text
    made = typer.main.get_command(command.app(importlib.import_module(f"benchmarks.{name}").main))
    example = inspect.cleandoc(made.callback.__doc__).split(f"Example: python -m benchmarks.{name}")
    made.make_context(name, shlex.split(example[1]))  # wrong options would raise


def test_the_page_names_every_benchmark_and_commands_that_parse():
    page = (ROOT / "benchmarks/README.md").read_text()
    found = dict(re.findall(r"`python -m benchmarks\.(\w+) ([^`]*)`", page))
    assert sorted(found) == sorted(NAMES)
    for name, arguments in found.items():
        main = importlib.import_module(f"benchmarks.{name}").main
        typer.main.get_command(command.app(main)).make_context(name, shlex.split(arguments))


def test_errors_are_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.corpus", "--pages", "1,x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: pages: found '1,x'; allowed are whole numbers above 0 and commas.\n"
    )


def test_a_page_is_printed_and_written(tmp_path, capsys):
    command.publish("| a |\n", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == "| a |\n"
    assert capsys.readouterr().out == "| a |\n\n"


def test_numbers_are_above_0():
    with pytest.raises(ConfigError, match="memory-mb: found '0'"):
        command.whole_numbers("memory-mb", "0")
