"""The command line: what it writes, says and refuses, and what an interruption leaves."""

import inspect
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from PIL import Image

from colport import cli
from colport.base.errors import ParityError
from colport.base.redaction import print_redacted
from colport.cli import inspection
from colport.families.reference.models import ProcessorReference
from colport.folder import manifest
from colport.hub import checkpoints
from colport.pipeline import variants
from colport.quantize.folder import quantize
from colport.quantize.settings import QuantizeSettings

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "COLUMNS": "80"}
COMMANDS = ("export", "quantize", "split", "merge", "shard", "inspect", "parity", "compare", "push")


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: exit code, standard output, standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["colport", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def int8(checkpoint_folders, tmp_path_factory):
    """The ready-made int8 variant, written by the command."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "colpali-demo"
    shutil.copytree(checkpoint_folders["colpali"], checkpoint)
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n")
    folder = tmp_path_factory.mktemp("cli") / "int8"
    arguments = ["export", checkpoint, "-o", folder, "--variant", "int8"]
    done = subprocess.run(
        [sys.executable, "-m", "colport.cli", *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, done


def test_export_writes_a_ready_made_variant(int8, exported, tmp_path):
    folder, done = int8
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{folder}: colpali, int8, [\d.]+ MB\n", done.stdout)
    assert "traced image graph" in done.stderr
    assert "\x1b" not in done.stderr
    assert names(folder.parent) == {"int8"}  # the float base is gone
    settings = QuantizeSettings.from_config(variants.get("int8"))
    by_hand = quantize(exported["colpali"], tmp_path / "by-hand", settings)
    found = manifest.verify(folder)
    assert found.digest == by_hand.digest
    assert "checked against its checkpoint: least cosine 0.9" in done.stderr
    assert (found.check["status"], found.check["against"]) == ("passed", "checkpoint")
    assert found.source["source"] == "colpali-demo"  # no path of this machine
    assert found.source["license"] == {"license": "apache-2.0"}
    assert set(found.source["weights"]) == {"model.safetensors"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_that_parses(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Example: colport {name} " in " ".join(out.split())
    _assert_example_parses(typer.main.get_command(cli.app).commands[name])


def test_help_names_the_ready_made_variants():
    (option,) = (
        item
        for item in typer.main.get_command(cli.app).commands["export"].params
        if item.name == "variant"
    )
    assert option.help == f"Ready-made variant: {', '.join(variants.ready_made())}."


def test_commands_of_the_readme_parse():
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^colport (\w+) (.*)$", text, re.M)
    assert len(lines) >= 5
    for name, arguments in lines:
        command = typer.main.get_command(cli.app).commands[name]
        command.make_context(name, shlex.split(arguments, comments=True))


def _assert_example_parses(command):
    example = inspect.cleandoc(command.callback.__doc__).split("Example: ")[1]
    command.make_context(command.name, shlex.split(example)[2:])  # wrong options would raise


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("export", "x"),
        ("export", "x", "-o", "y", "--layout", "zip"),
        ("shard", "x", "-o", "y", "--max-shard-bytes", "many"),
        ("parity", "x", "y"),
        ("parity", "x", "y", "--queries", "q.txt"),
        ("parity", "x", "y", "--queries", "q", "--documents", "d", "--dataset", "z"),
        ("push", "x", "me/y", "--model", "m"),
        ("push", "x", "me/y", "--token", "secret"),
        ("nothing",),
    ],
)
def test_a_wrong_call_is_exit_code_2(run, arguments):
    assert run(*arguments)[0] == 2


def test_a_mistake_is_one_sentence_and_exit_code_1(run, tmp_path, checkpoint_folders):
    checkpoint = checkpoint_folders["colpali"]
    output = tmp_path / "out"
    for arguments, message in (
        (("inspect", tmp_path), "is not an exported folder"),
        (("export", "no/such/place", "-o", output), "is neither a folder here nor a Hub id"),
        (("export", tmp_path, "-o", output), "config.json: cannot be read"),
        (
            ("export", checkpoint, "-o", output, "--variant", "int3"),
            "allowed are fp32, fp16, bf16, int8",
        ),
        (("export", checkpoint, "-o", output, "--family", "x"), "'x'"),
        (("export", checkpoint, "-o", output, "--base", checkpoint), "base goes with adapters"),
        (("export", checkpoint, "-o", output, "--layout", "shard"), "max_shard_bytes: is needed"),
        (("split", checkpoint, "-o", output), "it is a checkpoint, export it first"),
    ):
        code, out, err = run(*arguments, *([] if arguments[0] == "inspect" else ["-q"]))
        assert (code, out) == (1, ""), arguments
        assert err.startswith("error: "), err
        assert message in err
        assert err.count("\n") == 1
    assert names(tmp_path) == set()


def test_a_hub_id_may_name_its_commit_and_base():
    from colport.cli.options import declaration

    assert declaration("me/model@abc") == {"hub": "me/model", "revision": "abc"}
    assert declaration("me/lora", "me/base@abc") == {
        "hub": "me/lora",
        "revision": "main",
        "base": {"hub": "me/base", "revision": "abc"},
    }


def test_what_is_no_export_is_not_written_over(run, exported, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for command in ("split", "merge", "shard", "quantize"):
        code, _, err = run(command, exported["colpali"], "-o", tmp_path)
        assert (code, "is not an exported folder; choose another output" in err) == (1, True)
    assert names(tmp_path) == {"thesis.txt"}


def test_layouts_and_quantize(run, exported, tmp_path):
    shards = run("shard", exported["colpali"], "-o", tmp_path / "s", "--max-shard-bytes", "2MB")
    assert shards[0] == 0, shards
    assert len(manifest.read(tmp_path / "s").external_data["files"]) == 3
    assert run("merge", tmp_path / "s", "-o", tmp_path / "m")[0] == 0
    assert manifest.read(tmp_path / "m").external_data["files"] == []
    code, out, err = run("split", tmp_path / "m", "-o", tmp_path / "m", "--quiet")
    assert (code, err) == (0, "")
    assert out.endswith("1 weight files\n")
    assert manifest.read(tmp_path / "m").digest == manifest.read(exported["colpali"]).digest
    code, _, err = run(
        "quantize", tmp_path / "m", "-o", tmp_path / "q", "--exclude", "proj", "--layout", "merge"
    )
    assert code == 0, err
    found = manifest.read(tmp_path / "q")
    assert (found.check["status"], found.check["against"]) == ("passed", "base")
    assert found.quantization["settings"]["exclude"] == ["proj"]
    assert found.external_data["layout"] == "merge"
    assert run("quantize", tmp_path / "m", "-o", tmp_path / "q", "--no-check")[0] == 0
    assert manifest.read(tmp_path / "q").check == {"status": "left out"}
    assert "proof      left out" in run("inspect", tmp_path / "q")[1]


def test_a_calibrated_variant_takes_own_files(run, exported, tmp_path):
    write_inputs(tmp_path)
    call = ["quantize", exported["colpali"], "-o", tmp_path / "q", "--variant", "int8-calibrated"]
    code, _, err = run(*call)
    assert code == 1
    assert err == (
        "error: this variant is calibrated on real inputs: give --queries and --documents, or "
        "--dataset.\n"
    )
    call += ["--queries", tmp_path / "queries.txt", "--documents", tmp_path / "pages"]
    code, _, err = run(*call)
    assert code == 0, err
    assert "activations on 3 inputs of queries.txt and pages" in err
    check = manifest.read(tmp_path / "q").check
    assert (check["status"], check["tolerance"]) == ("passed", "")  # its ranges are of other inputs
    found = manifest.read(tmp_path / "q").quantization
    assert found["settings"]["method"] == "static"
    assert found["sensitivity"]["reached"] is True


def write_inputs(folder):
    """Two queries and three pages, and what is none of them."""
    pages = folder / "pages"
    pages.mkdir()
    (folder / "queries.txt").write_text("a red pie chart\n\nwhich page has a table?\n")
    (pages / "notes.txt").write_text("not a page")
    for number, size in enumerate([(168, 168), (90, 300), (300, 60)]):
        Image.new("RGB", size, (60 * number, 90, 30)).save(pages / f"{number}.png")


@pytest.mark.parametrize(
    ("source", "check", "lines"),
    [
        ({}, {}, ["source     not recorded", "proof      not recorded"]),
        (
            {"source": "m@1", "applied": ["a on b"]},
            {"status": "passed"},
            ["source     m@1", "           a on b", "proof      passed"],
        ),
    ],
)
def test_inspect_says_what_a_manifest_does_not_hold(source, check, lines, exported):
    found = replace(manifest.read(exported["colbert"]), source=source, check=check)
    said = [*inspection._lines(found)]
    assert [line for line in said if line in lines] == lines


def test_inspect(run, exported, tmp_path):
    code, out, _ = run("inspect", exported["colpali"])
    assert code == 0
    for text in ("colpali, 128 dimensions", "fp32", "pixel_values float [batch, 3, 168, 168]"):
        assert text in out
    code, out, _ = run("inspect", exported["colpali"], "--json", "--verify")
    record = json.loads(out)
    assert record["checked"] == {"files": "sha256", "graphs": True}
    assert record["files"].keys() == manifest.read(exported["colpali"]).files.keys()
    damaged = shutil.copytree(exported["colpali"], tmp_path / "damaged")
    content = (damaged / "tokenizer.json").read_bytes()
    (damaged / "tokenizer.json").write_bytes(content[:-1] + b" ")
    assert run("inspect", damaged)[0] == 0
    code, _, err = run("inspect", damaged, "--verify", "-q")
    assert code == 1
    assert re.match(r"error: .*tokenizer\.json: sha256 is \w+, colport\.json says \w+;", err)


def test_parity_on_own_files_goes_into_the_card(run, int8, checkpoint_folders, tmp_path):
    folder, _ = int8
    write_inputs(tmp_path)
    call = ["parity", folder, checkpoint_folders["colpali"], "--queries", tmp_path / "queries.txt"]
    call += [
        "--documents",
        tmp_path / "pages",
        "--inputs",
        "3",
        "--output",
        tmp_path / "parity.json",
    ]
    code, out, err = run(*call)
    assert code == 0, err
    assert re.search(r"^query: cosine mean 0\.9\d+, min 0\.9.* 2 inputs, ", out, re.M)
    assert re.search(r"^document: .* 3 inputs, 450 tokens", out, re.M)
    code, out, err = run("push", folder, "me/x", "--dry-run", "--parity", tmp_path / "parity.json")
    assert code == 0, err
    assert re.search(r"^\| cpu \| document \| 3 \| 450 \| 0\.9\d+ .* \| yes \|$", out, re.M)
    assert "\nlicense: apache-2.0\n" in out
    assert "\n| Licence | apache-2.0 |\n" in out
    assert json.loads((tmp_path / "parity.json").read_text())["settings"]["reference"] == (
        "in memory"
    )
    strict = ["--min-cosine", "0.9999999", "--quiet", "--reference-memory", "1MB"]
    code, out, err = run(*call, *strict)
    assert code == 1
    assert out.startswith("reference: the weights are read from the checkpoint's files")
    assert re.fullmatch(r"error: query: min_cosine .*; document: min_cosine .*\n", err)
    record = json.loads((tmp_path / "parity.json").read_text())
    assert record["settings"]["reference"] == "streamed"
    assert [row["passed"] for row in record["rows"]] == [False, False]
    assert record["export"] == manifest.read(folder).digest


def test_a_tolerance_of_zero_is_one(run, exported, tmp_path, monkeypatch):
    asked = []

    def tolerance(**limits):
        asked.append(limits)
        raise ParityError("enough")

    monkeypatch.setattr("colport.measure.parity.Tolerance", tolerance)
    (texts := tmp_path / "texts.txt").write_text("a\nb\n")
    call = ["parity", exported["colbert"], "x", "--queries", texts, "--documents", texts]
    for given in (["--min-cosine", "0"], []):
        assert run(*call, *given) == (1, "", "error: enough\n")
    assert asked == [{"min_cosine": 0.0}, variants.tolerance("fp32")]


def test_no_secret_is_in_a_traceback(monkeypatch):
    """typer puts a hook of its own in the place of Python's."""
    monkeypatch.setattr(cli, "remove_on_stop", lambda: None)
    for error in (None, RuntimeError("a fault of ours")):
        monkeypatch.setattr(sys, "excepthook", print)

        def command(error=error):
            if error:
                raise error

        with nullcontext() if error is None else pytest.raises(RuntimeError):
            cli.run(command)
        assert sys.excepthook is print_redacted


def test_parity_inputs_that_are_none(run, exported, checkpoint_folders, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "queries.txt").write_text("a query")
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "folder").mkdir()
    for queries, documents, message in (
        ("absent.txt", "folder", r"absent\.txt: cannot be read"),
        ("empty.txt", "folder", r"empty\.txt: is empty"),
        ("latin.txt", "folder", r"latin\.txt: is not UTF-8 text \(byte 1\)"),
        ("queries.txt", "folder", "folder holds no page that can be read; allowed are .pdf, .bmp"),
        ("queries.txt", "broken.png", r"broken\.png in .* is an image that cannot be decoded"),
        ("queries.txt", "absent.png", r"absent\.png: cannot be read, as it is not there"),
    ):
        code, _, err = run(
            *("parity", exported["colpali"], checkpoint_folders["colpali"]),
            *("--queries", tmp_path / queries, "--documents", tmp_path / documents, "-q"),
        )
        assert code == 1
        assert re.match(rf"error: .*{message}", err), err


def test_parity_with_a_library_that_fails(run, exported, checkpoint_folders, tmp_path, monkeypatch):
    checkpoint = checkpoint_folders["colpali"]
    monkeypatch.setattr(ProcessorReference, "prepare_queries", lambda *_: {}["attention_mask"])
    (tmp_path / "q.txt").write_text("a query")
    Image.new("RGB", (50, 40)).save(tmp_path / "page.png")
    inputs = ("--queries", tmp_path / "q.txt", "--documents", tmp_path / "page.png")
    code, _, err = run("parity", exported["colpali"], checkpoint, *inputs, "-q")
    assert code == 1
    assert err == f"error: {checkpoint}: its own library cannot run it ('attention_mask').\n"


def test_passages_from_lines_or_files(tmp_path):
    from colport.cli.inputs import read_documents

    (tmp_path / "passages.txt").write_text("one\n\ntwo\nthree\n")
    assert read_documents(tmp_path / "passages.txt", "passages", 2) == ["one", "two"]
    (tmp_path / "a.md").write_text("line one\nline two")
    assert read_documents(tmp_path, "passages", 1) == ["line one\nline two"]


@pytest.mark.parametrize("variable", ["PIPE", "TERMINAL"])
def test_a_bar_is_drawn_on_terminals_only(exported, tmp_path, variable):
    command = [sys.executable, "-m", "colport.cli", "split", str(exported["colbert"])]
    command += ["-o", str(tmp_path / "out")]
    environment = {**ENVIRONMENT, "TERM": "xterm"}
    if variable == "PIPE":
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout.startswith(str(tmp_path / "out"))
        return
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert re.search(rb"split.*MB", seen, re.S)
    assert b"\x1b" not in out


SLOW = """
import signal, sys, time
# The tests' own process may ignore both, in background and under nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from colport.tensors import external_data
def wait(*_):
    print("writing", flush=True)
    time.sleep(60)
external_data._append = wait
sys.argv = {arguments!r}
from colport.cli import main
main()
"""


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -9),
    ],
)
def test_an_interruption_leaves_nothing_half_written(run, exported, tmp_path, stop, code):
    output = tmp_path / "out"
    arguments = ["colport", "split", str(exported["colpali"]), "-o", str(output), "-q"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(arguments=arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert len(names(tmp_path)) == (1 if stop == signal.SIGKILL else 0)
    assert run(*arguments[1:])[0] == 0
    assert names(tmp_path) == {"out"}
    manifest.verify(output)


def test_a_missing_package_is_named(run, monkeypatch, checkpoint_folders, tmp_path):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(checkpoints, "record", missing)
    code, _, err = run("export", checkpoint_folders["colpali"], "-o", tmp_path / "out", "-q")
    assert code == 1
    assert err == (
        "error: torch is not installed; this command needs pip install 'colport[pipeline]'.\n"
    )


def test_the_version(run):
    assert run("--version") == (0, "0.1.0\n", "")
