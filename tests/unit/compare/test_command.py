"""``colport compare``: what it prints, and its exit codes."""

import json

import pytest
from typer.testing import CliRunner

from colport import cli
from colport.compare import repeatability

from .runs import FP32, MODEL, Run


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_the_command_ends_with_1_when_something_is_worse(old, tmp_path):
    run = Run()
    run.slow_down(1, 2.0)
    new = run.write(tmp_path / "new")
    done = command(old, new, "--json", tmp_path / "out.json")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "latency"
    assert done.stdout.splitlines()[-1] == "1 worse"
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["worse"] == 1
    assert record["findings"][0]["place"] == "model fp32 cpu query x1"
    assert command(old, new, "--threshold", 2).exit_code == 0


def test_the_command_prints_markdown(old, tmp_path):
    run = Run()
    run.export[FP32]["rows"][0]["folder_bytes"] = 90_000_000
    done = command(old, run.write(tmp_path / "new"), "--markdown", "--json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["worse"] == 1
    assert done.stdout.splitlines()[0] == "**1 worse**"
    assert "| size | worse | model fp32 | 80.00 MB -> 90.00 MB (+12.5%) |" in done.stdout


def test_the_command_ends_with_0_when_nothing_is_worse(old):
    done = command(old, old)
    assert (done.exit_code, done.stdout) == (0, "nothing differs beyond noise\n")


def test_what_cannot_be_read_ends_with_2_and_one_sentence(old, tmp_path):
    done = command(old, tmp_path)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/tables/export.csv" in done.stderr
    new = Run().write(tmp_path / "new")
    file = new / f"latency/{MODEL}/cpu.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    done = command(old, new)
    assert (done.exit_code, "schema_version is 2" in done.stderr) == (2, True)
    assert str(file) in done.stderr
    assert command(old).exit_code == 2


def test_how_well_a_run_repeats_is_said(tmp_path):
    folders = []
    for name, factors in (("first", (1.0, 1.0)), ("second", (1.1, 0.5))):
        run = Run()
        for row in run.latency["rows"]:
            row["speedup_vs_pytorch"] = None
        variants = [row for row in run.latency["rows"] if row["variant"] != "pytorch"]
        for row, factor in zip(variants[:2], factors, strict=True):
            row["speedup_vs_pytorch"] = 2.0 * factor
        folders.append(run.write(tmp_path / name))
    repeated = repeatability(*folders)
    assert (repeated.rows, repeated.largest) == (2, pytest.approx(1.0))
    assert repeated.median == pytest.approx(0.55)
    assert "2 rows differ by 55.0% at the median, 100.0% at most" in command(*folders).stdout
